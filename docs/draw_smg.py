"""Draw an SMG module (figure 2 of the paper) by the names of its parts: docs/smg.svg.

python docs/draw_smg.py
"""

from pathlib import Path

COLOURS = dict(squeeze="#0072B2", branch="#009E73", gate="#D55E00", fuse="#555555")
# Left, top, width, height, the lines of the label and the colour of each box.
BOXES = (
    (110, 60, 110, 56, ("squeeze1", "1 × 1"), "squeeze"),
    (250, 60, 120, 56, ("squeeze2", "3 × 3, g groups"), "squeeze"),
    (450, 130, 110, 56, ("forget_gate", "attention, 2 FC"), "gate"),
    (450, 210, 110, 44, ("branch3", "depthwise 3 × 3"), "branch"),
    (450, 270, 110, 44, ("branch5", "depthwise, dilated"), "branch"),
    (600, 210, 110, 104, ("update_gate", "attention,", "3 FC, softmax"), "gate"),
    (640, 70, 36, 36, ("×",), "fuse"),
    (740, 70, 36, 36, ("+",), "fuse"),
)
# The corners of each arrow.
ARROWS = (
    ((20, 88), (110, 88)),
    ((220, 88), (250, 88)),
    ((370, 88), (640, 88)),
    ((410, 88), (410, 158), (450, 158)),
    ((410, 88), (410, 232), (450, 232)),
    ((410, 88), (410, 292), (450, 292)),
    ((560, 158), (658, 158), (658, 106)),
    ((560, 232), (600, 232)),
    ((560, 292), (600, 292)),
    ((710, 262), (758, 262), (758, 106)),
    ((676, 88), (740, 88)),
    ((776, 88), (840, 88)),
)
LABELS = (
    (22, 78, "features"),
    (395, 78, "X′"),
    (600, 150, "f: (N, C)"),
    (764, 200, "v: (N, C)"),
    (786, 78, "output"),
    (160, 40, "squeeze cell"),
    (450, 340, "multi-scale excitation, and gates"),
    (110, 380, "In front of every convolution but the gates' stand norm and activation."),
)


def main() -> None:
    """Write the drawing next to this file."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 860 400" font-size="13"'
        ' font-family="sans-serif" role="img" aria-label="An SMG module">',
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
        ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
        '<rect width="860" height="400" fill="white"/>',
    ]
    for corners in ARROWS:
        points = " ".join(f"{x},{y}" for x, y in corners)
        parts.append(
            f'<polyline points="{points}" fill="none" stroke="black" marker-end="url(#tip)"/>'
        )
    for left, top, width, height, lines, kind in BOXES:
        parts.append(
            f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="white"'
            f' stroke="{COLOURS[kind]}" stroke-width="2"/>'
        )
        middle = top + height / 2 + 5 - 8 * (len(lines) - 1)
        for i, line in enumerate(lines):
            size = 13 if i == 0 else 11
            parts.append(
                f'<text x="{left + width / 2}" y="{middle + 16 * i}" font-size="{size}"'
                f' text-anchor="middle">{line}</text>'
            )
    parts += [f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in LABELS]
    path = Path(__file__).with_name("smg.svg")
    path.write_text("\n".join([*parts, "</svg>"]) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
