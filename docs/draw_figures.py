"""Draw the figures of docs/network.md by the names of the parts: python docs/draw_figures.py

smg.svg is figure 2 of the paper; block.svg, gates.svg and forms.svg explain the text.
"""

import dataclasses
from pathlib import Path

COLOURS = dict(squeeze="#0072B2", branch="#009E73", gate="#D55E00", fuse="#555555", again="#AAAAAA")


@dataclasses.dataclass(frozen=True)
class Figure:
    """A drawing of boxes, arrows and labels.

    Args:
        title: What it shows, for those who do not see it.
        size: Width and height.
        boxes: Left, top, width, height, the lines of the label and the colour of each box; one of
            the colour ``'again'`` is dashed.
        arrows: The corners of each.
        labels: Left, base line and text of each.
    """

    title: str
    size: tuple[int, int]
    boxes: tuple
    arrows: tuple
    labels: tuple

    def as_svg(self) -> str:
        """Return the drawing as the text of a file."""
        width, height = self.size
        parts = [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-size="13"'
            f' font-family="sans-serif" role="img" aria-label="{self.title}">',
            '<defs><marker id="tip" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7"'
            ' markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z"/></marker></defs>',
            f'<rect width="{width}" height="{height}" fill="white"/>',
        ]
        for corners in self.arrows:
            points = " ".join(f"{x},{y}" for x, y in corners)
            parts.append(
                f'<polyline points="{points}" fill="none" stroke="black" marker-end="url(#tip)"/>'
            )
        for left, top, width, height, lines, kind in self.boxes:
            dashes = ' stroke-dasharray="5 4"' if kind == "again" else ""
            parts.append(
                f'<rect x="{left}" y="{top}" width="{width}" height="{height}" rx="6" fill="white"'
                f' stroke="{COLOURS[kind]}" stroke-width="2"{dashes}/>'
            )
            middle = top + height / 2 + 5 - 8 * (len(lines) - 1)
            for i, line in enumerate(lines):
                size = 13 if i == 0 else 11
                parts.append(
                    f'<text x="{left + width / 2}" y="{middle + 16 * i}" font-size="{size}"'
                    f' text-anchor="middle">{line}</text>'
                )
        parts += [f'<text x="{x}" y="{y}">{text}</text>' for x, y, text in self.labels]
        return "\n".join([*parts, "</svg>"]) + "\n"


SMG = Figure(
    "An SMG module",
    (860, 400),
    boxes=(
        (110, 60, 110, 56, ("squeeze1", "1 × 1"), "squeeze"),
        (250, 60, 120, 56, ("squeeze2", "3 × 3, g groups"), "squeeze"),
        (450, 130, 110, 56, ("forget_gate", "attention, 2 FC"), "gate"),
        (450, 210, 110, 44, ("branch3", "depthwise 3 × 3"), "branch"),
        (450, 270, 110, 44, ("branch5", "depthwise, dilated"), "branch"),
        (600, 210, 110, 104, ("update_gate", "attention,", "3 FC, softmax"), "gate"),
        (640, 70, 36, 36, ("×",), "fuse"),
        (740, 70, 36, 36, ("+",), "fuse"),
    ),
    arrows=(
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
    ),
    labels=(
        (22, 78, "features"),
        (395, 78, "X′"),
        (600, 150, "f: (N, C)"),
        (764, 200, "v: (N, C)"),
        (786, 78, "output"),
        (160, 40, "squeeze cell"),
        (450, 340, "multi-scale excitation, and gates"),
        (110, 380, "In front of every convolution but the gates' stand norm and activation."),
    ),
)
_MODULES = (210, 400, 640)  # left edges
BLOCK = Figure(
    "A hybrid block",
    (900, 250),
    boxes=(
        (20, 50, 100, 56, ("input", "C channels"), "fuse"),
        (210, 50, 110, 56, ("SMG module 1", "adds k"), "gate"),
        (400, 50, 110, 56, ("SMG module 2", "adds k"), "gate"),
        (640, 50, 110, 56, ("SMG module n", "adds k"), "gate"),
        (820, 130, 70, 40, ("output",), "fuse"),
    ),
    arrows=(
        ((70, 106), (70, 150), (820, 150)),
        *(((left + 25, 150), (left + 25, 106)) for left in _MODULES),
        *(((left + 85, 106), (left + 85, 150)) for left in _MODULES),
    ),
    labels=(
        (130, 170, "C"),
        (330, 170, "C + k"),
        (530, 170, "C + 2k"),
        (755, 170, "C + nk"),
        (560, 84, "…"),
        (
            70,
            215,
            "The line holds all features so far, next to each other (dense). Each module reads",
        ),
        (70, 233, "all of them; what it returns is its squeezed map times f, plus v (residual)."),
    ),
)
GATES = Figure(
    "The update gate and the forget gate",
    (900, 330),
    boxes=(
        (90, 40, 120, 44, ("attention pool", "of branch3"), "gate"),
        (90, 110, 120, 44, ("attention pool", "of branch5"), "gate"),
        (310, 72, 150, 50, ("reduce, norm, tanh", "both, to 2C / r"), "gate"),
        (510, 40, 90, 44, ("expand3",), "gate"),
        (510, 110, 90, 44, ("expand5",), "gate"),
        (640, 72, 90, 50, ("softmax", "across both"), "gate"),
        (770, 72, 110, 50, ("v = u3 · z3", "+ u5 · z5"), "fuse"),
        (90, 230, 120, 44, ("attention pool", "of X′"), "gate"),
        (310, 226, 150, 50, ("reduce, norm, tanh", "to C / r"), "gate"),
        (510, 230, 90, 44, ("expand",), "gate"),
        (640, 230, 90, 44, ("sigmoid",), "gate"),
        (770, 230, 110, 44, ("f",), "fuse"),
    ),
    arrows=(
        ((20, 62), (90, 62)),
        ((20, 132), (90, 132)),
        ((210, 62), (260, 62), (260, 90), (310, 90)),
        ((210, 132), (260, 132), (260, 106), (310, 106)),
        ((460, 90), (485, 90), (485, 62), (510, 62)),
        ((460, 106), (485, 106), (485, 132), (510, 132)),
        ((600, 62), (620, 62), (620, 90), (640, 90)),
        ((600, 132), (620, 132), (620, 106), (640, 106)),
        ((730, 97), (770, 97)),
        ((20, 252), (90, 252)),
        ((210, 252), (310, 252)),
        ((460, 252), (510, 252)),
        ((600, 252), (640, 252)),
        ((730, 252), (770, 252)),
    ),
    labels=(
        (20, 24, "Update gate (equations 5 to 10)"),
        (228, 54, "z3"),
        (228, 150, "z5"),
        (728, 64, "u3, u5"),
        (20, 214, "Forget gate (equation 11)"),
        (235, 244, "z"),
        (
            90,
            312,
            "Behind the pooling there are vectors of a number for each channel, and no positions.",
        ),
    ),
)
FORMS = Figure(
    "Three forms of a module's beginning",
    (900, 300),
    boxes=(
        *(
            (140 + 125 * i, 30, 110, 44, (name,), "squeeze")
            for i, name in enumerate(
                ("concatenate", "norm", "ReLU", "1 × 1", "norm, ReLU", "3 × 3")
            )
        ),
        *(
            (140 + 125 * i, 115, 110, 44, (name,), kind)
            for i, (name, kind) in enumerate(
                (
                    ("concatenate", "again"),
                    ("norm", "again"),
                    ("ReLU", "again"),
                    ("1 × 1", "squeeze"),
                    ("norm, ReLU", "squeeze"),
                    ("3 × 3", "squeeze"),
                )
            )
        ),
        *(
            (140 + 125 * i, 200, 110, 44, lines, "squeeze")
            for i, lines in enumerate(
                (
                    ("features", "in one place"),
                    ("clamp",),
                    ("1 × 1", "with both norms"),
                    ("ReLU",),
                    ("3 × 3",),
                )
            )
        ),
    ),
    arrows=tuple(
        ((140 + 125 * i - 15, top + 22), (140 + 125 * i, top + 22))
        for top, number in ((30, 6), (115, 6), (200, 5))
        for i in range(number)
    ),
    labels=(
        (10, 56, "plain"),
        (10, 141, "memory saving"),
        (10, 226, "deployed"),
        (140, 270, "Dashed: not kept for the backward pass, but computed again there."),
        (
            140,
            287,
            "Deployed: the first norm and ReLU are a clamp, the rest of it is in the weights.",
        ),
    ),
)


def main() -> None:
    """Write the drawings next to this file."""
    for name, figure in dict(smg=SMG, block=BLOCK, gates=GATES, forms=FORMS).items():
        Path(__file__).with_name(f"{name}.svg").write_text(figure.as_svg(), encoding="utf-8")


if __name__ == "__main__":
    main()
