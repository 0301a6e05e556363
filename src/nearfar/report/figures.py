"""The figures of the results: each a function from numbers to one SVG, at the width asked for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nearfar.report.svg import Drawing, Scale, spread_labels, ticks

# Below this width labels stand above what they name instead of beside it.
NARROW = 500


@dataclass(frozen=True)
class Bar:
    """A share in [0, 1] with its interval."""

    name: str
    kind: str
    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Curve:
    """Shares in [0, 1] at each ``k``, with the band of their intervals."""

    name: str
    kind: str
    ks: Sequence[int]
    value: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@dataclass(frozen=True)
class ClassBar:
    """The share of right answers among the queries of one class."""

    name: str
    target: str
    right: int
    queries: int

    @property
    def value(self) -> float:
        return self.right / self.queries


@dataclass(frozen=True)
class Histogram:
    """Densities of similarity: one bin is one share of all positive, or of all negative, pairs."""

    name: str
    positives: Sequence[float]
    negatives: Sequence[float]
    threshold: float


def percent(value: float, decimals: int = 1) -> str:
    """``0.834`` -> ``83.4 %``."""
    return "–" if math.isnan(value) else f"{100 * value:.{decimals}f}\u00a0%"


def span(low: float, high: float) -> str:
    """An interval of shares as words: ``80.6–86.1 %``."""
    return "" if math.isnan(low) or math.isnan(high) else f"{100 * low:.1f}–{100 * high:.1f}\u00a0%"


def headline_bars(bars: Sequence[Bar], width: float, title: str) -> str:
    """One horizontal bar for each kind of embedding, from zero, with its interval."""
    narrow = width < NARROW
    label = 0.0 if narrow else 26.0 + 8.6 * max(len(bar.name) for bar in bars)
    row = 52 if narrow else 38
    thick = 18 if narrow else 20
    drawing = Drawing(width, row * len(bars) + 4, title)
    scale = Scale(0.0, 1.0, label, width - (104 if narrow else 190))
    for index, bar in enumerate(bars):
        top = row * index + (row - thick if narrow else (row - thick) / 2)
        middle = top + thick / 2
        if narrow:
            drawing.text(0, top - 8, bar.name, kind=f"name {bar.kind}")
        else:
            drawing.text(0, middle + 5, bar.name, kind=f"name {bar.kind}")
        drawing.bar(label, top, scale.end - label, thick, "track")
        drawing.bar(label, top, scale(bar.value) - label, thick, f"fill {bar.kind}")
        edge = scale(bar.value)
        if not math.isnan(bar.low):
            low, edge = scale(bar.low), scale(bar.high)
            drawing.line(low, middle, edge, middle, "whisker")
            drawing.line(low, middle - 5, low, middle + 5, "whisker")
            drawing.line(edge, middle - 5, edge, middle + 5, "whisker")
        at = scale.end + 12
        drawing.text(at, middle + (0 if narrow else 6), percent(bar.value), kind=f"value {bar.kind}")
        if narrow:
            drawing.text(at, middle + 14, span(bar.low, bar.high), kind="small")
        else:
            drawing.text(at + 74, middle + 6, span(bar.low, bar.high), kind="small")
    return drawing.render()


def recall_curve(curves: Sequence[Curve], width: float, title: str, thing: str) -> str:
    """Recall against k on a doubling axis, each curve with its band and its name at its end."""
    narrow = width < NARROW
    height = 300.0 if narrow else 360.0
    left, right, top, bottom = 44.0, (92.0 if narrow else 170.0), 14.0, 52.0
    drawing = Drawing(width, height, title)
    ks = curves[0].ks
    across = Scale(float(ks[0]), float(ks[-1]), left, width - right, log=True)
    up = Scale(0.0, 1.0, height - bottom, top)
    for value in (0.0, 0.25, 0.5, 0.75, 1.0):
        drawing.line(left, up(value), width - right, up(value), "axis" if value == 0 else "grid")
        drawing.text(left - 8, up(value) + 4, f"{100 * value:.0f} %", kind="tick", anchor="end")
    for k in ks:
        drawing.text(across(k), height - bottom + 20, str(k), kind="tick", anchor="middle")
    drawing.text(
        (left + width - right) / 2,
        height - 8,
        "k, nearest pictures looked at"
        if narrow
        else f"k: pictures looked at, nearest first, until the same {thing} is met",
        kind="axis-name",
        anchor="middle",
    )
    for curve in curves:
        upper = [(across(k), up(value)) for k, value in zip(ks, curve.high, strict=True)]
        lower = [(across(k), up(value)) for k, value in zip(ks, curve.low, strict=True)]
        drawing.area(upper, lower, f"band {curve.kind}")
    for curve in curves:
        points = [(across(k), up(value)) for k, value in zip(ks, curve.value, strict=True)]
        drawing.curve(points, f"stroke {curve.kind}")
        for (x, y), k, value in zip(points, ks, curve.value, strict=True):
            drawing.dot(x, y, 3, f"fill {curve.kind}", f"{curve.name}: recall@{k} {percent(value)}")
    places = spread_labels([up(curve.value[-1]) for curve in curves], 20, top + 4, height - bottom)
    for curve, place in zip(curves, places, strict=True):
        words = curve.name.removesuffix(" training") if narrow else curve.name
        drawing.text(width - right + 10, place + 4, words, kind=f"direct {curve.kind}")
    return drawing.render()


def histogram(panels: Sequence[Histogram], edges: Sequence[float], width: float, title: str) -> str:
    """Positives against negatives over one shared axis of similarity, one panel for each embedding."""
    narrow = width < NARROW
    each = 160.0 if narrow else 184.0
    left, right, bottom = 8.0, 78.0, 48.0
    drawing = Drawing(width, each * len(panels) + bottom, title)
    across = Scale(edges[0], edges[-1], left, width - right)
    for index, panel in enumerate(panels):
        floor = each * (index + 1)
        tallest = max(*panel.positives, *panel.negatives, 1e-09)
        up = Scale(0.0, tallest, floor, floor - each + 60)
        for kind, shares in (("negative", panel.negatives), ("positive", panel.positives)):
            stair = _stair(edges, shares, across, up)
            drawing.area(stair, [(stair[0][0], floor), (stair[-1][0], floor)], f"hill {kind}")
        drawing.line(left, floor, width - right, floor, "axis")
        at = across(panel.threshold)
        drawing.line(at, floor - each + 50, at, floor, "mark")
        drawing.text(left, floor - each + 30, panel.name, kind="panel")
        side = "start" if at < width * 0.6 else "end"
        drawing.text(
            at + (6 if side == "start" else -6),
            floor - each + 46,
            f"threshold {panel.threshold:.2f}",
            kind="small",
            anchor=side,
        )
        if index == len(panels) - 1:
            _name_hills(drawing, panel, edges, across, up)
    for value in ticks(edges[0], edges[-1], 4 if narrow else 8):
        at = max(across(value), left + 12)
        drawing.text(
            at, drawing.height - bottom + 20, f"{value:.1f}".replace("-", "−"), kind="tick", anchor="middle"
        )
    drawing.text(
        (left + width - right) / 2,
        drawing.height - 6,
        "cosine similarity of two pictures",
        kind="axis-name",
        anchor="middle",
    )
    return drawing.render()


def _stair(
    edges: Sequence[float], shares: Sequence[float], across: Scale, up: Scale
) -> list[tuple[float, float]]:
    """The outline of a histogram, from left to right."""
    points = []
    for low, high, share in zip(edges, edges[1:], shares, strict=False):
        points += [(across(low), up(share)), (across(high), up(share))]
    return points


def _name_hills(drawing: Drawing, panel: Histogram, edges: Sequence[float], across: Scale, up: Scale) -> None:
    """Write the names of the two hills at half their height, on the slopes that look away from each other."""
    negative, positive = np.asarray(panel.negatives), np.asarray(panel.positives)
    negative_first = float(np.argmax(negative)) <= float(np.argmax(positive))
    for kind, words, shares in (("negative", "different", negative), ("positive", "the same", positive)):
        high = np.flatnonzero(shares >= shares.max() * 0.6)
        leftwards = (kind == "negative") == negative_first
        x = across(edges[high[0]]) - 8 if leftwards else across(edges[high[-1] + 1]) + 8
        # At the rim of the picture the name stands on the hill's foot instead of beyond the rim.
        x = max(x, 70.0) if leftwards else min(x, drawing.width - 70)
        drawing.text(
            x, up(shares.max() * 0.72), words, kind=f"direct {kind}", anchor="end" if leftwards else "start"
        )


def class_bars(bars: Sequence[ClassBar], width: float, title: str, worst: int = 10) -> str:
    """One upright bar for each class, best first, from zero; each links to the queries of its class.

    Where a bar would be thinner than three units the bars become one outline without links.
    """
    left, right, top, bottom = 44.0, 8.0, 14.0, 34.0
    height = 220.0 if width < NARROW else 260.0
    drawing = Drawing(width, height, title)
    up = Scale(0.0, 1.0, height - bottom, top)
    for value in (0.0, 0.5, 1.0):
        drawing.line(left, up(value), width - right, up(value), "axis" if value == 0 else "grid")
        drawing.text(left - 8, up(value) + 4, f"{100 * value:.0f} %", kind="tick", anchor="end")
    step = (width - left - right) / len(bars)
    gap = min(2.0, step * 0.25)
    thick = min(step - gap, 48.0)
    for index, bar in enumerate(bars) if step >= 3 else ():
        x = left + step * index + (step - thick) / 2
        note = f"{bar.name}: {bar.right} of {bar.queries} queries right"
        kind = "fill wrong-bar" if index >= len(bars) - worst and bar.value < 1 else "fill after"
        drawing.open_link(bar.target, note)
        # The whole column can be clicked, also where the bar is low.
        drawing.bar(x - gap / 2, top, thick + gap, height - bottom - top, "hit", note)
        drawing.bar(x, up(bar.value), thick, max(height - bottom - up(bar.value), 1.5), kind)
        drawing.close_link()
    if step < 3:
        # Too many to tell apart: one outline instead of bars.
        edges = [float(index) for index in range(len(bars) + 1)]
        across = Scale(0.0, float(len(bars)), left, width - right)
        stair = _stair(edges, [bar.value for bar in bars], across, up)
        drawing.area(stair, [(left, up(0.0)), (width - right, up(0.0))], "fill after")
    count = f"{len(bars)} classes, best first"
    drawing.text((left + width - right) / 2, height - 10, count, kind="axis-name", anchor="middle")
    return drawing.render()
