"""Checkpoints are written whole, and one that was changed is found out."""

import io
import os
import subprocess
import sys
import time
import zipfile

import pytest
import torch
from mmengine.fileio import get_file_backend

from mmhcgnet.checkpoints import durable_files, read_checkpoint
from mmhcgnet.checkpoints.durable_files import ATOMIC, remove_temporary, seal
from mmhcgnet.errors import UsageError

CHECKPOINT = dict(state_dict=dict(a=torch.arange(7.0), b=torch.ones(2, 3)), meta=dict(epoch=3))
END = 22  # bytes of a zip archive's last record without a comment


def saved(**options):
    buffer = io.BytesIO()
    torch.save(CHECKPOINT, buffer, **options)
    return buffer.getvalue()


CONTENTS = dict(sealed=seal(saved()), plain=saved())


def damaged(tmp_path, content):
    path = tmp_path / "damaged.pth"
    path.write_bytes(content)
    with pytest.raises(UsageError, match=r"damaged\.pth .*damaged or cut short"):
        read_checkpoint(str(path))


@pytest.mark.parametrize("mmap", [False, True])
@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_pytorch_reads_it_sealed_or_not(tmp_path, content, mmap):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    assert read_checkpoint(str(path))["meta"] == CHECKPOINT["meta"]
    read = torch.load(path, weights_only=True, mmap=mmap)
    assert read["meta"] == CHECKPOINT["meta"]
    for key, tensor in CHECKPOINT["state_dict"].items():
        assert torch.equal(read["state_dict"][key], tensor)


def test_the_seal_is_the_comment_of_the_archive_and_covers_the_rest():
    plain, sealed = saved(), CONTENTS["sealed"]
    with zipfile.ZipFile(io.BytesIO(sealed)) as archive:
        assert archive.testzip() is None
        comment = archive.comment
    assert comment.startswith(b"mmhcgnet sha256 ")
    # All but the comment and its length is as PyTorch has written it.
    assert sealed == plain[:-2] + len(comment).to_bytes(2, "little") + comment
    assert seal(sealed) == sealed


@pytest.mark.parametrize("content", [b"", b"weights", saved(_use_new_zipfile_serialization=False)])
def test_what_is_no_archive_is_left_alone(content):
    assert seal(content) == content


def test_every_flipped_bit_of_a_sealed_file_is_found(tmp_path):
    content = CONTENTS["sealed"]
    # All of the beginning, of the directory and of the seal, and samples of what is between.
    places = {*range(64), *range(64, len(content), 29), *range(len(content) - 400, len(content))}
    for place in places:
        changed = bytearray(content)
        changed[place] ^= 1 << place % 8
        damaged(tmp_path, bytes(changed))


def test_changed_weights_of_an_unsealed_file_are_found(tmp_path):
    content = CONTENTS["plain"]
    weights = CHECKPOINT["state_dict"]["a"].numpy().tobytes()
    place = content.index(weights) + 5
    damaged(tmp_path, content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_cut_short_is_found(tmp_path, content):
    # Around the last record and, of a sealed file, all through the seal.
    for length in {4, 30, len(content) // 2, *range(len(content) - 150, len(content))}:
        damaged(tmp_path, content[:length])


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_file_with_more_at_its_end_is_found(tmp_path, content):
    damaged(tmp_path, content + b"\0")


def test_two_sealed_files_in_one_are_found(tmp_path):
    damaged(tmp_path, CONTENTS["sealed"] * 2)


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(UsageError, match=r"absent\.pth cannot be read: .*No such file"):
        read_checkpoint(str(tmp_path / "absent.pth"))


def test_the_backend_writes_atomically_and_seals(tmp_path, monkeypatch):
    backend = get_file_backend(tmp_path, backend_args=dict(backend=ATOMIC))
    path = tmp_path / "new" / "a.pth"
    backend.put(saved(), path)
    assert path.read_bytes() == CONTENTS["sealed"]
    backend.put_text("é", tmp_path / "a.txt")
    assert (tmp_path / "a.txt").read_text(encoding="utf-8") == "é"

    def fail(*_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="no space left"):
        backend.put(b"new", path)
    assert path.read_bytes() == CONTENTS["sealed"]


def test_files_of_killed_processes_alone_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host, end = durable_files._host(), "mmhcgnet.tmp"
    kept = f".a.pth.{host}.{os.getppid()}.{end}", "a.pth", f"a.pth.{host}.{dead.pid}.{end}"
    # Another host's, another program's, and what only looks like ours.
    kept += f".a.pth.other-{host}.{dead.pid}.{end}", f".a.pth.{host}.old.{end}", ".notes.2024.tmp"
    kept += tuple(f".x.{host}.{pid}.{end}" for pid in ("9" * 30, "-1", "²²²"))
    left = f".a.pth.{host}.{dead.pid}.{end}", f".a.pth.{host}.{os.getpid()}.{end}"
    old = f".b.pth.other-{host}.{dead.pid}.{end}"
    for name in (*kept, *left, old):
        (tmp_path / name).write_bytes(b"")
    os.utime(tmp_path / old, (time.time() - 90000,) * 2)
    (tmp_path / f".folder.{host}.{dead.pid}.{end}").mkdir()
    remove_temporary(str(tmp_path))
    assert set(os.listdir(tmp_path)) == {*kept, f".folder.{host}.{dead.pid}.{end}"}
