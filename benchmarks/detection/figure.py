"""Small line charts as SVG text: AUROC against the size of the reference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 300, 190  #: of a panel's plot, in pixels
LEFT, TOP, GAP_X, GAP_Y = 46, 34, 50, 76
COLOURS = ("#1b6ca8", "#c8553d", "#4f8a4c", "#7a5195")
_GRID = (0.0, 0.25, 0.5, 0.75, 1.0)


@dataclass(frozen=True, slots=True)
class Line:
    """One curve.

    Attributes:
      label: for the key; empty leaves it out of the key.
      x: ascending, positive; drawn on a logarithmic axis.
      y: in [0, 1].
      low: least value behind each y.
      high: greatest value behind each y.
      dashed: drawn dashed.
      mark: an x marked by a dotted upright; None for none.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]
    dashed: bool = False
    mark: float | None = None


@dataclass(frozen=True, slots=True)
class Panel:
    """One chart; solid and dashed lines take the same colours in the same order.

    Attributes:
      title: above the chart.
      lines: at least one, all of the same x, which are the ticks.
      dashed_label: for the key: what dashed lines are.
    """

    title: str
    lines: Sequence[Line]
    dashed_label: str


def draw_panels(panels: Sequence[Panel], columns: int) -> str:
    """The panels in a grid, row by row, as the text of an SVG file.

    Raises:
      ValueError: if there is no panel.
    """
    if not panels:
        raise ValueError("a figure needs at least one panel, got none")
    rows = math.ceil(len(panels) / columns)
    width = LEFT + columns * (WIDTH + GAP_X)
    height = TOP + rows * (HEIGHT + GAP_Y)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="sans-serif" font-size="12" fill="#222">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
    ]
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        x, y = LEFT + column * (WIDTH + GAP_X), TOP + row * (HEIGHT + GAP_Y)
        parts += [f'<g transform="translate({x},{y})">', *_panel(panel), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _panel(panel: Panel) -> list[str]:
    ticks = panel.lines[0].x
    least, greatest = math.log(ticks[0]), math.log(ticks[-1])

    def across(value: float) -> float:
        return 8 + (WIDTH - 16) * (math.log(value) - least) / (greatest - least)

    def down(value: float) -> float:
        return HEIGHT * (1 - value)

    parts = [f'<text x="0" y="-12" font-size="13">{escape(panel.title)}</text>']
    for level in _GRID:
        y = down(level)
        parts.append(f'<path d="M0 {y:.1f}H{WIDTH}" stroke="#ddd"/>')
        parts.append(f'<text x="-6" y="{y + 4:.1f}" text-anchor="end">{level:g}</text>')
    for tick in ticks:
        x = across(tick)
        parts.append(f'<text x="{x:.1f}" y="{HEIGHT + 17}" text-anchor="middle">{tick}</text>')
    colours: dict[bool, int] = {False: 0, True: 0}
    key = 0
    for line in panel.lines:
        colour = COLOURS[colours[line.dashed] % len(COLOURS)]
        colours[line.dashed] += 1
        style = f'stroke="{colour}" fill="none" stroke-width="1.8"'
        if line.dashed:
            style += ' stroke-dasharray="5 4" opacity="0.75"'
        points = [f"{across(x):.1f} {down(y):.1f}" for x, y in zip(line.x, line.y, strict=True)]
        parts.append(f'<path d="M{"L".join(points)}" {style}/>')
        for x, low, high in zip(line.x, line.low, line.high, strict=True):
            parts.append(
                f'<path d="M{across(x):.1f} {down(low):.1f}V{down(high):.1f}" '
                f'stroke="{colour}" stroke-width="1" opacity="0.6"/>'
            )
        if line.mark is not None and ticks[0] <= line.mark <= ticks[-1]:
            upright = f"M{across(line.mark):.1f} 0V{HEIGHT}"
            parts.append(f'<path d="{upright}" stroke="{colour}" stroke-dasharray="1 4"/>')
        if line.label:
            parts += _key(8 + 62 * key, style, line.label)
            key += 1
    dashes = 'stroke="#555" stroke-width="1.8" stroke-dasharray="5 4"'
    return [*parts, *_key(8 + 62 * key, dashes, panel.dashed_label)]


def _key(x: float, style: str, label: str) -> list[str]:
    return [
        f'<path d="M{x} {HEIGHT + 36}h16" {style}/>',
        f'<text x="{x + 20}" y="{HEIGHT + 40}">{escape(label)}</text>',
    ]
