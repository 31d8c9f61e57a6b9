"""Files that are whole: written so that no crash leaves half of one, and sealed by a checksum."""

from __future__ import annotations

import hashlib
import os
import re
import socket
import time
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

ATOMIC = "mmhcgnet.atomic"  # the name of AtomicBackend for backend_args
_TEMPORARY = ".{}.{}.{}.mmhcgnet.tmp"  # of a file's name, and the host and process that writes it
_DAY = 86400  # seconds
_LABEL = b"mmhcgnet sha256 "
_SEAL_SIZE = len(_LABEL) + 64  # bytes
_END = b"PK\x05\x06"  # begins the last record of a zip archive, which ends with its comment
_END_SIZE = 22  # bytes of that record without a comment
_NO_COMMENT = b"\0\0"  # the two bytes that hold the comment's length


def write_atomically(path: str, content: bytes) -> None:
    """Write a file so that at any moment, a power cut included, it is whole or as before.

    Args:
        path: The file; its folder is made if it does not exist.
        content: All of it.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, _TEMPORARY.format(name, _host(), os.getpid()))
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    # The new name is on the disk only once the folder is.
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def remove_temporary(folder: str) -> None:
    """Remove what :func:`write_atomically` has left in a folder where it was killed.

    Whether a process of another host still writes cannot be told: its files go after a day.
    """
    for path in Path(folder).glob(_TEMPORARY.format("*", "*", "*")):
        host, pid = path.name.split(".")[-4:-2]
        if not re.fullmatch("[0-9]{1,9}", pid) or not path.is_file():
            continue
        with suppress(FileNotFoundError):  # its writer may rename it meanwhile
            old = time.time() - path.stat().st_mtime > _DAY
            if not _is_another(int(pid)) if host == _host() else old:
                path.unlink()


def _host() -> str:
    return re.sub(r"[^\w-]", "-", socket.gethostname())


def _is_another(pid: int) -> bool:
    """Whether another process of this number runs."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return pid != os.getpid()


def seal(content: bytes) -> bytes:
    """Add to what ``torch.save`` has written the SHA-256 of it all, as the archive's comment.

    PyTorch and every other reader of zip archives skip the comment; :func:`is_whole` checks it.

    Args:
        content: A zip archive; anything else is returned as it is.
    """
    end = content[-_END_SIZE:]
    if not (end.startswith(_END) and end.endswith(_NO_COMMENT) and len(end) == _END_SIZE):
        return content
    comment = _LABEL + hashlib.sha256(content).hexdigest().encode()
    return b"".join((content[: -len(_NO_COMMENT)], len(comment).to_bytes(2, "little"), comment))


def is_whole(file: BinaryIO) -> bool:
    """Whether a zip archive ends where it should and is as it was sealed, if it was.

    A sealed one is compared with its SHA-256, which covers every bit of it. The records of others
    have a checksum each (CRC-32), which is compared when they are read.
    """
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _END_SIZE - 0xFFFF, 0))
    tail = file.read()
    end = tail.rfind(_END)
    comment = tail[end + _END_SIZE :]
    length = tail[end + _END_SIZE - len(_NO_COMMENT) : end + _END_SIZE]
    if end < 0 or len(comment) != int.from_bytes(length, "little"):
        return False
    if len(comment) != _SEAL_SIZE:
        return True
    file.seek(0)
    digest = hashlib.sha256()
    left = size - _SEAL_SIZE - len(_NO_COMMENT)
    while left:
        part = file.read(min(left, 1 << 20))
        left -= len(part)
        digest.update(part)
    digest.update(_NO_COMMENT)
    return comment == _LABEL + digest.hexdigest().encode()


@register_backend(ATOMIC, force=True)
class AtomicBackend(LocalBackend):
    """Writes to a local disk whole or not at all, and seals checkpoints.

    A config names it as ``backend_args=dict(backend="mmhcgnet.atomic")``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write the content of a file, sealed if it is a checkpoint."""
        write_atomically(str(filepath), seal(obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write a text file."""
        write_atomically(str(filepath), obj.encode(encoding))
