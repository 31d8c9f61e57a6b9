"""What was found by dissection: counts, a table, a bar chart, a page with images."""

from __future__ import annotations

import base64
import csv
import html
import io
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from mmhcgnet.analysis.report import new_figure
from mmhcgnet.errors import MissingFileError, UsageError

from .units import Dissection, masks_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

KIND = "mmhcgnet dissection"
_COLUMNS = ("unit", "concept", "category", "iou", "threshold")
_TILE_HEIGHT = 96
# Okabe and Ito's colours, which colour-blind readers tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#F0E442", "#000000")


def read_result(path: str) -> dict[str, Any]:
    """Read what ``dissect.py`` has written as ``units.json``.

    Raises:
        MissingFileError: If it does not exist.
        UsageError: If it is anything else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            result = json.load(file)
    except FileNotFoundError as error:
        raise MissingFileError(f"The result {path} does not exist.") from error
    except (OSError, ValueError) as error:
        raise UsageError(f"The result {path} cannot be read: {error}") from error
    if not isinstance(result, dict) or result.get("kind") != KIND:
        raise UsageError(f"{path} is not a dissection result: name a units.json of dissect.py.")
    return result


def detects(unit: Mapping[str, Any], min_iou: float) -> bool:
    """Whether a unit counts as a detector of its concept."""
    return unit["concept"] is not None and unit["iou"] > min_iou


def count_detectors(result: Mapping[str, Any], min_iou: float) -> dict[str, tuple[int, int]]:
    """Count, for each category, the concepts that a unit detects (unique detectors), and units."""
    concepts = {category: [] for category in result["categories"]}
    for unit in result["units"]:
        if detects(unit, min_iou):
            concepts[unit["category"]].append(unit["concept"])
    return {category: (len(set(found)), len(found)) for category, found in concepts.items()}


def comparison(
    results: Sequence[Mapping[str, Any]], min_iou: float
) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a table of unique detectors, a row for each model."""
    categories = _all_categories(results)
    rows = []
    for result in results:
        counts = count_detectors(result, min_iou)
        unique, units = (sum(count[i] for count in counts.values()) for i in (0, 1))
        cells = [str(counts[name][0]) if name in counts else "–" for name in categories]
        rows.append([result["name"], *cells, str(unique), f"{units} of {len(result['units'])}"])
    return ["model", *categories, "unique detectors", "units that detect"], rows


def as_csv(units: Sequence[Mapping[str, Any]]) -> str:
    """Write the table of units, best first, as CSV."""
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(_best_first(units))
    return text.getvalue()


def figure(results: Sequence[Mapping[str, Any]], min_iou: float) -> Figure:
    """Draw the unique detectors as stacked bars, one for each model, as figure 4 of the paper."""
    counts = [count_detectors(result, min_iou) for result in results]
    fig = new_figure(2.6 + 1.1 * max(len(results), 2), 4.2, dpi=110)
    ax = fig.subplots()
    bottom = np.zeros(len(results))
    places = np.arange(len(results))
    for i, category in enumerate(_all_categories(results)):
        heights = np.array([count.get(category, (0, 0))[0] for count in counts])
        colour = _COLOURS[i % len(_COLOURS)]
        bars = ax.bar(places, heights, 0.6, bottom=bottom, color=colour, label=category)
        ax.bar_label(bars, [str(n) if n else "" for n in heights], label_type="center", fontsize=7)
        bottom += heights
    for place, total in zip(places, bottom, strict=True):
        ax.text(place, total, f"{total:.0f}", ha="center", va="bottom", weight="bold", fontsize=9)
    ax.set_xticks(places, [result["name"] for result in results], fontsize=8)
    if len(results) > 2:
        ax.tick_params("x", rotation=30)
    ax.set_ylabel(f"unique detectors (IoU > {min_iou:g})")
    ax.yaxis.get_major_locator().set_params(integer=True)
    ax.margins(x=0.2, y=0.1)
    ax.spines[["top", "right"]].set_visible(False)
    handles, labels = ax.get_legend_handles_labels()
    ax.legend(
        *(handles[::-1], labels[::-1]),
        **dict(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=8),
    )
    return fig


def draw_tiles(dissection: Dissection) -> dict[int, list[bytes]]:
    """Draw for each unit the images in which it is largest, dark where it is not above.

    Images in which it never exceeds its threshold are left out.

    Returns:
        JPEG files by the number of the unit, those of the largest activations first.
    """
    wanted = defaultdict(list)
    for unit, indices in enumerate(dissection.top_images):
        for rank, index in enumerate(indices):
            wanted[int(index)].append((unit, rank))
    drawn: dict[int, dict[int, bytes]] = defaultdict(dict)
    for index, image, maps in dissection.maps(sorted(wanted)):
        height, width = image.shape[:2]
        size = (_TILE_HEIGHT, max(1, round(_TILE_HEIGHT * width / height)))
        image = cv2.resize(np.ascontiguousarray(image), size[::-1], interpolation=cv2.INTER_AREA)
        units = [unit for unit, _ in wanted[index]]
        masks = masks_of(maps[units], dissection.thresholds[units], size).cpu().numpy()
        for (unit, rank), mask in zip(wanted[index], masks, strict=True):
            if mask.any():
                drawn[unit][rank] = _tile(image, mask)
    return {unit: [tiles[rank] for rank in sorted(tiles)] for unit, tiles in drawn.items()}


def _tile(image: np.ndarray, mask: np.ndarray) -> bytes:
    tile = np.where(mask[..., None], image, (image * 0.3).astype(np.uint8))
    outlines, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(tile, outlines, -1, (0, 220, 255), 1)
    return cv2.imencode(".jpg", tile, [cv2.IMWRITE_JPEG_QUALITY, 75])[1].tobytes()


_STYLE = """
body { font: 14px/1.4 sans-serif; margin: 2em; color: #222 }
table { border-collapse: collapse } th, td { padding: .2em .8em; text-align: right }
th:first-child, td:first-child { text-align: left }
section { display: inline-block; margin: 0 1.2em 1.2em 0; vertical-align: top }
h2 { font-size: 14px; margin: 0 } p { margin: .3em 0 } section.no { opacity: .55 }
img { margin-right: 2px; height: 96px }
"""


def page(
    result: Mapping[str, Any], tiles: Mapping[int, Sequence[bytes]], min_iou: float, limit: float
) -> str:
    """Write the page of a model's units, best first; it needs no other file.

    Args:
        result: The result.
        tiles: Images of each unit, from :func:`draw_tiles`.
        min_iou: IoU that a detector exceeds; other units stand behind, in paler print.
        limit: Bytes that the page takes at most; the last units are left out for it.
    """
    title = html.escape(f"{result['name']}, layer {result['layer']}")
    header, ((_, *cells),) = comparison([result], min_iou)
    top = f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>{title}</title>
<style>{_STYLE}</style></head><body>
<h1>{title}</h1>
<p>{result["images"]} images of {html.escape(result["data"])}; thresholds at the top
{result["quantile"]:.2%} of a unit's activations; a detector has an IoU above {min_iou:g}.</p>
<table><tr>{"".join(f"<th>{html.escape(name)}</th>" for name in header[1:])}</tr>
<tr>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr></table>
<p>Each unit with the images in which it is largest, dark where it is below its threshold.</p>
"""
    units = _best_first(result["units"])
    sections, size = [], len(top.encode()) + 200  # and the last lines
    for unit in units:
        section = _section(unit, tiles.get(unit["unit"], ()), detects(unit, min_iou))
        size += len(section.encode())
        if size > limit:
            break
        sections.append(section)
    shown = f"The best {len(sections)} of {len(units)} units are shown."
    if len(sections) == len(units):
        shown = f"All {len(units)} units are shown."
    return f"{top}{''.join(sections)}<p>{shown}</p></body></html>\n"


def _section(unit: Mapping[str, Any], tiles: Sequence[bytes], detector: bool) -> str:
    pictures = "".join(
        f'<img alt="" src="data:image/jpeg;base64,{base64.b64encode(tile).decode()}">'
        for tile in tiles
    )
    concept = "no concept"
    if unit["concept"] is not None:
        name = html.escape(f"{unit['concept']} ({unit['category']})")
        concept = f"{name} · IoU {unit['iou']:.3f}"
    return (
        f"<section{'' if detector else ' class=no'}><h2>unit {unit['unit']} · {concept}</h2>\n"
        f"{pictures or '<p>never above its threshold</p>'}</section>\n"
    )


def _best_first(units: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted(units, key=lambda unit: -unit["iou"])


def _all_categories(results: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for result in results for name in result["categories"]))
