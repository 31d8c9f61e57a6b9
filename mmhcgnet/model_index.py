"""What MMPretrain finds by name."""

from __future__ import annotations

import warnings
from contextlib import suppress
from importlib.util import find_spec

from .paths import shipped_configs, shipped_path, shipped_weights


def register_classifiers() -> None:
    """Let ``mmpretrain.get_model`` and ``list_models`` know the classifiers.

    Where MMPretrain is not installed, or the package was copied without what it ships, there is
    nothing to do. Detectors stay out: MMPretrain could not run them. Weights that are shipped are
    found from any folder.

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
            for name in shipped_configs():
                if ModelHub.has(name) and (path := shipped_weights(name)):
                    ModelHub._models_dict[name].weights = str(path)  # from anywhere
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        warnings.warn(
            f"MMPretrain cannot find the classifiers of mmhcgnet: {reason}",
            stacklevel=2,
        )
