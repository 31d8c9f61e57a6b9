"""Images to inspect, and what was found."""

from __future__ import annotations

from PIL import Image


def noise(path, mode="RGB", kind="PNG", size=(30, 20), **kwargs):
    """Write an image that no two files share, and return its path."""
    Image.effect_noise(size, 60).convert(mode).save(path, kind, **kwargs)
    return str(path)


def kinds(findings, harmless=None):
    """How often each kind was found, of all findings or of the harmless or harmful ones alone."""
    return {f.kind: f.count for f in findings if harmless is None or f.harmless is harmless}
