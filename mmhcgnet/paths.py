"""Paths as configs write them."""

from __future__ import annotations


def is_local(path: str) -> bool:
    """Whether a path is one of this file system and no URL or other backend's."""
    return "://" not in path
