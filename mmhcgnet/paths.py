"""Paths as configs write them, and of what the project ships besides its code."""

from __future__ import annotations

import os
from pathlib import Path

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".ppm", ".pgm", ".tif", ".tiff", ".webp")


def images_below(folder: Path) -> list[Path]:
    """The images in a folder and in those below it, by their suffixes, without hidden ones.

    Links to folders are followed, except to one that the link is in.
    """
    found: list[Path] = []
    inside = {str(folder): frozenset(map(str, folder.resolve().parents))}
    for parent, folders, names in os.walk(folder, followlinks=True):
        around = inside.pop(parent) | {os.path.realpath(parent)}
        folders[:] = [
            name
            for name in folders
            if name[0] != "." and os.path.realpath(os.path.join(parent, name)) not in around
        ]
        inside.update(dict.fromkeys((os.path.join(parent, name) for name in folders), around))
        files = [Path(parent, name) for name in names if name[0] != "."]
        found += [file for file in files if file.suffix.lower() in IMAGES and file.is_file()]
    return sorted(found)


def is_local(path: str) -> bool:
    """Whether a path is one of this file system and no URL or other backend's."""
    return "://" not in path


def shipped_path(name: str) -> Path:
    """Locate a file that the project ships: in ``.mim`` where installed, else in the checkout."""
    package = Path(__file__).parent
    installed = package / ".mim" / name
    return installed if installed.exists() else package.parent / name


def shipped_configs() -> dict[str, Path]:
    """The runnable configs that the project ships, by their names in the model index."""
    found = sorted(shipped_path("configs").rglob("*.py"))
    return {path.stem: path for path in found if "_base_" not in path.parts}


def shipped_weights(name: str) -> Path | None:
    """The weights that the project ships for one of its configs, by its name."""
    path = shipped_path(f"weights/{name}.safetensors")
    return path if os.path.basename(name) == name and path.is_file() else None
