"""What the scripts in ``tools/model_converters`` share: read, convert, write, report."""

from __future__ import annotations

import argparse
import datetime
import hashlib
import os
from collections.abc import Callable

from torch import Tensor

from mmhcgnet.analysis.report import write
from mmhcgnet.checkpoints import Checkpoint, encode_checkpoint
from mmhcgnet.convert import Converted, LayoutError
from mmhcgnet.errors import UsageError
from mmhcgnet.models import ARCHITECTURES
from mmhcgnet.weights import faults, find_weights

from .options import check_overwriting

FOLDER = "checkpoints"
TERMS = (
    "The authors' weights, published at https://github.com/winycg/HCGNet, are for research only; "
    "converted copies stay under the same terms."
)


def make_parser(description: str, source: str, default: str) -> argparse.ArgumentParser:
    """Make the command line of a converter.

    Args:
        description: What the script does.
        source: What its input is.
        default: Name of the file that it writes by default.
    """
    parser = argparse.ArgumentParser(description=description, epilog=TERMS)
    parser.add_argument("src", help=source)
    add_output_arguments(parser, f"{FOLDER}/{default}")
    parser.add_argument(
        "--arch",
        type=str.upper,
        choices=list(ARCHITECTURES),
        help="refuse a checkpoint of another network (default: the shapes show which one it is)",
    )
    return parser


def add_output_arguments(parser: argparse.ArgumentParser, default: str) -> None:
    """Add what all converters let one say about the file that they write.

    Args:
        parser: The parser.
        default: What is written by default.
    """
    parser.add_argument(
        "dst",
        nargs="?",
        help=f"file to write; one that ends in .safetensors is written in that format (default: "
        f"{default})",
    )
    parser.add_argument(
        "--publish",
        action="store_true",
        help="add the date and the first 8 digits of the SHA-256 to the file's name",
    )
    parser.add_argument("--force", action="store_true", help="overwrite a file that is there")


def convert_file(
    convert: Callable[[dict, str | None], Converted],
    src: str,
    dst: str | None = None,
    arch: str | None = None,
    publish: bool = False,
    force: bool = False,
) -> str:
    """Convert a checkpoint file and print what was read and written.

    Args:
        convert: One of the functions of ``mmhcgnet.convert``.
        src: The file to read.
        dst: The file to write; by default the name that our configs expect.
        arch: The network that ``src`` must hold.
        publish: Add date and hash to the name, as MMPretrain's ``publish_model.py`` does.
        force: Overwrite an existing file.

    Returns:
        The file that was written.

    Raises:
        MissingFileError: If the input does not exist.
        UsageError: If the input cannot be read or is not what it should be, or the output
            already exists or cannot be written. Nothing is written then.
    """
    checkpoint = Checkpoint.open(src)
    try:
        converted = convert(checkpoint.content, arch)
    except LayoutError as error:
        raise UsageError(f"{src} cannot be converted: {error}.") from error
    network = f"HCGNet-{converted.arch} with {converted.num_classes} classes"
    accuracy = "best accuracy so far" if converted.best_so_far else "accuracy"
    stated = {"epoch": converted.epoch, accuracy: converted.accuracy}
    facts = [f"{key} {'not stated' if fact is None else fact}" for key, fact in stated.items()]
    print(f"read {src}: {network}, {', '.join(facts)}", flush=True)

    if dst is None:
        if converted.file_name is None:
            raise UsageError(f"There is no usual name for {network}: name the file to write.")
        dst = os.path.join(FOLDER, converted.file_name)
    dst = write_converted(converted.checkpoint, src, dst, publish, force)
    print(TERMS, flush=True)
    return dst


def write_converted(checkpoint: dict, src: str, dst: str, publish: bool, force: bool) -> str:
    """Write a converted checkpoint and print its name and its SHA-256.

    Args:
        checkpoint: What to write.
        src: The checkpoint that it was made of.
        dst: The file to write.
        publish: Add date and hash to the name, as MMPretrain's ``publish_model.py`` does.
        force: Overwrite an existing file.

    Returns:
        The file that was written.

    Raises:
        UsageError: If it already exists or cannot be written.
    """
    if broken := faults(find_weights(checkpoint)):
        raise UsageError(f"{dst} cannot be written: made of {src}, it would have {broken}.")
    content = encode_checkpoint(checkpoint, dst)
    sha256 = hashlib.sha256(content).hexdigest()
    if publish:
        stem, suffix = os.path.splitext(dst)
        dst = f"{stem}_{datetime.date.today():%Y%m%d}-{sha256[:8]}{suffix}"
    check_overwriting(dst, src, force=force)
    write(dst, content)
    tensors = sum(isinstance(value, Tensor) for value in find_weights(checkpoint).values())
    print(f"wrote {dst}: {tensors} tensors, SHA-256 {sha256}", flush=True)
    return dst


def is_plain(value: object) -> bool:
    """Whether a value can be written as JSON, for files of safetensors."""
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(child) for key, child in value.items())
    if isinstance(value, list | tuple):
        return all(map(is_plain, value))
    return value is None or isinstance(value, str | int | float)
