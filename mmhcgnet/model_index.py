"""What the project ships besides its code, and what MMPretrain finds of it by name."""

from __future__ import annotations

import warnings
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path


def shipped_path(name: str) -> Path:
    """Locate a file that the project ships: in ``.mim`` where installed, else in the checkout."""
    package = Path(__file__).parent
    installed = package / ".mim" / name
    return installed if installed.exists() else package.parent / name


def register_classifiers() -> None:
    """Let ``mmpretrain.get_model`` and ``list_models`` know the classifiers.

    Where MMPretrain is not installed, or the package was copied without what it ships, there is
    nothing to do. Detectors stay out: MMPretrain could not run them.

    This runs when the package is imported, also for detectors, which need no MMPretrain. So one
    that does not fit is a warning here, whatever it raises, and an error where it is used.
    """
    try:
        metafile = shipped_path("configs/hcgnet/metafile.yml")
        if find_spec("mmpretrain") is None or not metafile.is_file():
            return
        from mmpretrain.apis import ModelHub

        # The hub refuses a name that it has: this package was imported before and is reloaded.
        with suppress(ValueError):
            ModelHub.register_model_index(metafile, config_prefix=metafile.parents[2])
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warnings.warn(
            f"MMPretrain cannot find the classifiers of mmhcgnet: {reason}",
            stacklevel=2,
        )
