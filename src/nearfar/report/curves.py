"""The story of the training: what the log holds, as curves above one shared axis of steps."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.report.figures import NARROW, percent
from nearfar.report.svg import Drawing, Scale, spread_labels, ticks

# More points than this are averaged in pairs, triples, …: no more can be seen at this width.
POINTS = 240


@dataclass(frozen=True)
class Panel:
    """One band of the figure: a name and the columns of the log drawn in it."""

    name: str
    columns: tuple[tuple[str, str, str], ...]  # key in the log, words at its end, kind of colour
    share: bool = False
    whole: bool = False  # the axis ends at 1 whatever the values


PANELS = (
    Panel("loss", (("loss", "", "after"),)),
    Panel("share of terms that still teach", (("active", "", "after"),), share=True, whole=True),
    Panel(
        "mean similarity",
        (("positive_similarity", "positives", "positive"), ("negative_similarity", "negatives", "negative")),
        whole=True,
    ),
    Panel("spread of the embeddings (0: all alike)", (("spread", "", "after"),), whole=True),
    Panel(
        "what comes from the memory: active pairs, gradient",
        (("pairs_from_memory", "pairs", "before"), ("gradient_from_memory", "gradient", "after")),
        share=True,
        whole=True,
    ),
    Panel(
        "memory: cosine of new and old embeddings (1: no drift)", (("memory_drift", "", "after"),), whole=True
    ),
    Panel("spread of the proxies (0: all alike)", (("proxy_spread", "", "after"),), whole=True),
    Panel("gradient norm", (("gradient_norm", "", "after"),)),
)


def steps(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of the log that tell a training step; a resumed run's repeated steps are taken once."""
    last = {int(line["step"]): line for line in log if line.get("kind") == "step" and "step" in line}
    return [last[step] for step in sorted(last)]


def validations(log: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The lines of the log that tell a validation, each step once; epochs are counted from 1, not from 0."""
    last = {
        int(line["step"]): {**line, "epoch": int(line.get("epoch", 0)) + 1}
        for line in log
        if line.get("kind") == "validation" and "step" in line
    }
    return [last[step] for step in sorted(last)]


def chosen(log: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The validation whose weights were kept."""
    marked = [line for line in validations(log) if line.get("best")]
    return marked[-1] if marked else None


def column(lines: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """Step and value of one column, thinned by averaging; values that are not finite are left out."""
    points = [
        (float(line["step"]), float(line[key]))
        for line in lines
        if isinstance(line.get(key), int | float) and math.isfinite(line[key])
    ]
    if len(points) <= POINTS:
        return points
    parts = np.array_split(np.asarray(points), POINTS)
    return [(float(part[:, 0].mean()), float(part[:, 1].mean())) for part in parts]


def as_high_again(log: Sequence[Mapping[str, Any]]) -> int:
    """How many validations after the chosen one were as high: it was kept because it came first."""
    best = chosen(log)
    if best is None:
        return 0
    key = decisive(best)
    value = best.get(key)
    later = [line for line in validations(log) if line["step"] > best["step"]]
    return sum(value is not None and line.get(key) == value for line in later)


def decisive(validation: Mapping[str, Any]) -> str:
    """The measure that decides which epoch is kept."""
    return "map_at_r" if validation.get("map_at_r") is not None else "recall_at_1"


def training_curves(
    log: Sequence[Mapping[str, Any]], width: float, title: str, validation: str = "validation"
) -> str:
    """Draw every column of the log that has values, the validations, and the chosen checkpoint as a line.

    Args:
        log: its records.
        width: of the figure.
        title: what is seen.
        validation: what the validation is called, and what it is of.
    """
    narrow = width < NARROW
    lines, checks, best = steps(log), validations(log), chosen(log)
    shown = [panel for panel in PANELS if any(column(lines, key) for key, _, _ in panel.columns)]
    each, left, right, bottom = (96.0 if narrow else 112.0), 46.0, (84.0 if narrow else 92.0), 44.0
    count = len(shown) + 1.5 * bool(checks)
    head = 22.0 if best else 4.0
    drawing = Drawing(width, head + each * count + bottom, title)
    last = max([float(line["step"]) for line in [*lines, *checks]], default=1.0)
    across = Scale(0.0, max(last, 1.0), left, width - right)
    if best:
        at = across(float(best["step"]))
        drawing.line(at, head - 4, at, head + each * count, "mark")
        side = "start" if at < width * 0.45 else "end"
        drawing.text(
            at + (5 if side == "start" else -5), 14, f"kept: epoch {best['epoch']}", kind="small", anchor=side
        )
    top = head
    if checks:
        _validation_panel(drawing, checks, across, top, 1.5 * each, best, validation)
        top += 1.5 * each
    for panel in shown:
        found = [(column(lines, key), words, kind) for key, words, kind in panel.columns]
        _panel(drawing, panel, [part for part in found if part[0]], across, top, each)
        top += each
    for value in ticks(0.0, max(last, 1.0), 4 if narrow else 8):
        drawing.text(across(value), top + 20, f"{value:,.0f}", kind="tick", anchor="middle")
    drawing.text((left + width - right) / 2, top + 39, "training step", kind="axis-name", anchor="middle")
    return drawing.render()


def _validation_panel(
    drawing: Drawing,
    checks: Sequence[Mapping[str, Any]],
    across: Scale,
    top: float,
    each: float,
    best: Mapping[str, Any] | None,
    name: str,
) -> None:
    curves = [
        (column(checks, key), words, kind)
        for key, words, kind in (("map_at_r", "MAP@R", "before"), ("recall_at_1", "recall@1", "after"))
    ]
    curves = [curve for curve in curves if curve[0]]
    values = [value for points, _, _ in curves for _, value in points] or [0.0]
    # The axis is cut to whole tenths around the points: these are dots, not bars.
    low, high = (
        max(math.floor(10 * min(values) - 0.2) / 10, 0.0),
        min(math.ceil(10 * max(values) + 0.2) / 10, 1.0),
    )
    up = Scale(low, high, top + each - 12, top + 26)
    _frame(drawing, name, across, up, top, share=True)
    for points, words, kind in curves:
        places = [(across(step), up(value)) for step, value in points]
        drawing.curve(places, f"stroke {kind}")
        for (x, y), (step, value) in zip(places, points, strict=True):
            here = best is not None and float(best["step"]) == step
            drawing.dot(x, y, 5 if here else 3, f"fill {kind}", f"step {step:,.0f}: {words} {percent(value)}")
    ends = [up(points[-1][1]) for points, _, _ in curves]
    for (_, words, kind), place in zip(curves, spread_labels(ends, 18, up.end, up.start), strict=True):
        drawing.text(across.end + 8, place + 4, words, kind=f"direct {kind}")


def _panel(
    drawing: Drawing,
    panel: Panel,
    found: Sequence[tuple[list[tuple[float, float]], str, str]],
    across: Scale,
    top: float,
    each: float,
) -> None:
    values = [value for points, _, _ in found for _, value in points]
    low = min(0.0, *values)
    high = 1.0 if panel.whole else max(*values, 1e-9)
    up = Scale(low, max(high, low + 1e-9), top + each - 12, top + 26)
    _frame(drawing, panel.name, across, up, top, share=panel.share)
    for points, _, kind in found:
        drawing.curve([(across(step), up(value)) for step, value in points], f"stroke thin {kind}")
    ends = [up(points[-1][1]) for points, _, _ in found]
    for (points, words, kind), place in zip(found, spread_labels(ends, 16, up.end, up.start), strict=True):
        value = points[-1][1]
        ending = words or (percent(value, 0) if panel.share else f"{value:.2f}")
        drawing.text(across.end + 8, place + 4, ending, kind=f"direct {kind}")


def _frame(drawing: Drawing, name: str, across: Scale, up: Scale, top: float, share: bool) -> None:
    drawing.text(across.start, top + 16, name, kind="panel")
    foot = up.low if share else max(up.low, 0.0)
    for value in dict.fromkeys((foot, up.high)):
        drawing.line(across.start, up(value), across.end, up(value), "axis" if value == foot else "grid")
        words = f"{100 * value:.0f} %" if share else (f"{value:.0f}" if value == 0 else f"{value:.2g}")
        drawing.text(across.start - 8, up(value) + 4, words, kind="tick", anchor="end")
