"""Files that are whole: written so that no crash leaves half of one, and verified when read."""

from __future__ import annotations

import hashlib
import os
import zipfile
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from mmengine.fileio import LocalBackend, register_backend

from mmhcgnet.errors import UsageError

ATOMIC = "mmhcgnet.atomic"  # the name of AtomicBackend for backend_args
_LABEL = b"mmhcgnet sha256 "
_SEAL_SIZE = len(_LABEL) + 64  # bytes
_END = b"PK\x05\x06"  # begins the last record of a zip archive, which ends with its comment
_END_SIZE = 22  # bytes of that record if there is no comment
_NO_COMMENT = b"\0\0"  # the two bytes that hold the comment's length


def write_atomically(path: str, content: bytes) -> None:
    """Write a file so that at any moment, a power cut included, it is whole or as before.

    Args:
        path: The file; its folder is made if it is not there.
        content: All of it.
    """
    folder, name = os.path.split(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    temporary = os.path.join(folder, f".{name}.{os.getpid()}.tmp")
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
    """Remove what :func:`write_atomically` has left in a folder where it was killed."""
    for path in Path(folder).glob(".*.tmp"):
        pid = path.name.split(".")[-2]
        if pid.isdecimal() and not _is_another_process(int(pid)):
            path.unlink(missing_ok=True)


def _is_another_process(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return pid != os.getpid()


def seal(content: bytes) -> bytes:
    """Add to what ``torch.save`` has written the SHA-256 of it all, as the archive's comment.

    PyTorch and every other reader of zip archives skip the comment; :func:`verify` checks it.

    Args:
        content: A zip archive; anything else is returned as it is.
    """
    if not _ends_without_comment(content[-_END_SIZE:]):
        return content
    comment = _LABEL + hashlib.sha256(content).hexdigest().encode()
    return b"".join((content[: -len(_NO_COMMENT)], len(comment).to_bytes(2, "little"), comment))


def verify(path: str) -> None:
    """Check that a checkpoint is as it was written, without reading it as one.

    A sealed file (see :func:`seal`) is compared with its SHA-256, which covers every bit of it.
    Another zip archive, as any ``torch.save`` of PyTorch 1.6 or newer writes, has at least a
    checksum (CRC-32) for the content of each record. Other formats have nothing to check here.

    Args:
        path: A local file.

    Raises:
        UsageError: If it was cut short or changed, or cannot be read.
    """
    try:
        with open(path, "rb") as file:
            whole = _is_whole(file)
    except OSError as error:
        raise UsageError(f"The checkpoint {path} cannot be read: {error}") from error
    if not whole:
        raise UsageError(
            f"The checkpoint {path} is damaged or cut short, as its checksum tells: take an older "
            "one, which --resume without a path finds by itself, or fetch it again."
        )


def _is_whole(file: BinaryIO) -> bool:
    size = file.seek(0, os.SEEK_END)
    file.seek(max(size - _SEAL_SIZE - len(_NO_COMMENT), 0))
    length, comment = file.read(len(_NO_COMMENT)), file.read()
    file.seek(0)
    if comment.startswith(_LABEL):
        digest = hashlib.sha256()
        left = size - _SEAL_SIZE - len(_NO_COMMENT)
        while left:
            part = file.read(min(left, 1 << 20))
            left -= len(part)
            digest.update(part)
        digest.update(_NO_COMMENT)
        sealed = _LABEL + digest.hexdigest().encode()
        return comment == sealed and length == _SEAL_SIZE.to_bytes(2, "little")
    if file.read(4) != b"PK\x03\x04":
        return True
    # Any comment is the rest of a seal, and without the record at its end the archive is cut.
    file.seek(max(size - _END_SIZE, 0))
    if not _ends_without_comment(file.read()):
        return False
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except Exception:  # what a damaged archive makes it raise has no common type
        return False


def _ends_without_comment(end: bytes) -> bool:
    return end.startswith(_END) and end.endswith(_NO_COMMENT) and len(end) == _END_SIZE


@register_backend(ATOMIC, force=True)
class AtomicBackend(LocalBackend):
    """Writes to a local disk whole or not at all, and seals checkpoints.

    A config names it as ``backend_args=dict(backend="mmhcgnet.atomic")``.
    """

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write the content of a file, sealed if it is a checkpoint."""
        write_atomically(str(filepath), seal(obj))

    def put_text(self, obj: str, filepath: str | Path, encoding: str = "utf-8") -> None:
        """Write a text."""
        write_atomically(str(filepath), obj.encode(encoding))
