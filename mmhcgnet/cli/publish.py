"""Writing the weights of a trained model, alone and small, in a format that runs nothing."""

from __future__ import annotations

import torch
from torch import Tensor

from mmhcgnet.checkpoints import Checkpoint
from mmhcgnet.errors import UsageError
from mmhcgnet.version import __version__
from mmhcgnet.weights import listed, without_tensor

from .converters import is_plain, write_converted

# Half of a unit in the last place of fp16, relative; and for what is below its normal range.
_RELATIVE, _ABSOLUTE = 2.0**-11, 2.0**-25


def publish_file(
    src: str, dst: str, half: bool = False, publish: bool = False, force: bool = False
) -> str:
    """Write the weights of a checkpoint without all that only its training needs.

    Args:
        src: The checkpoint of a training. With MMEngine's ``EMAHook`` its ``state_dict``, which
            holds the averaged weights, is taken.
        dst: The file to write; one that ends in ``.safetensors`` is of that format.
        half: Write floating-point tensors in fp16, where their values allow it: a model that
            loads them computes in its own type.
        publish: Add date and hash to the name.
        force: Overwrite an existing file.

    Returns:
        The file that was written.

    Raises:
        MissingFileError: If the checkpoint does not exist.
        UsageError: If it cannot be read or is broken, or the output already exists or cannot be
            written. Nothing is written then.
    """
    checkpoint = Checkpoint.open(src).require()
    if others := without_tensor(checkpoint.weights):
        raise UsageError(
            f"{src} cannot be published: among its weights are {listed(others, 'of another kind')}."
        )
    weights = {
        name: in_half(tensor) if half else tensor for name, tensor in checkpoint.weights.items()
    }
    meta = {key: value for key, value in checkpoint.meta.items() if is_plain(value)}
    meta.pop("hook_msgs", None)
    meta["mmhcgnet_version"] = __version__
    content = dict(meta=meta, state_dict=weights)
    if half:
        kept = [name for name, t in weights.items() if getattr(t, "dtype", None) == torch.float32]
        print(f"read {src}: {len(weights)} tensors, {len(kept)} of them stay in fp32", flush=True)
    return write_converted(content, src, dst, publish, force)


def in_half(tensor: Tensor) -> Tensor:
    """Return a tensor in fp16 if each of its values is nearly the same there, else as it is."""
    if getattr(tensor, "dtype", None) not in (torch.float32, torch.float64):
        return tensor  # or a module's extra state
    half = tensor.half()
    near = (half.to(tensor.dtype) - tensor).abs() <= _RELATIVE * tensor.abs() + _ABSOLUTE
    return half if bool(near.all()) else tensor
