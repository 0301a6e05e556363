"""The picture of the report: time and memory against the number of rows, a row of panels for each loss."""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from nearfar.bench.losses import Cell, Report
from nearfar.bench.memory import DOES_NOT_FIT
from nearfar.bench.problems import PROBLEMS
from nearfar.bench.tables import number
from nearfar.errors import require
from nearfar.report.svg import spread_labels

if TYPE_CHECKING:
    from matplotlib.axes import Axes

OURS, THEIRS, FLOOR, FAINT, INK = "#2463eb", "#d97706", "#64748b", "#94a3b8", "#1e293b"


@dataclass(frozen=True)
class Line:
    """One curve with its name at its end.

    Attributes:
        full: whether a larger size does not fit into memory.
    """

    name: str
    colour: str
    points: Sequence[tuple[int, float]]
    style: str = "-"
    width: float = 2.0
    full: bool = False


def draw(report: Report) -> bytes:
    """Return the picture as PNG."""
    require("matplotlib", "bench")
    os.environ.setdefault("MPLBACKEND", "Agg")
    import matplotlib.pyplot as plt

    rows, dims = report.plan.losses, report.plan.dims
    across, down = 2 * len(dims), len(rows)
    with plt.rc_context({"font.family": "sans-serif", "font.size": 9, "axes.edgecolor": FAINT}):
        figure, axes = plt.subplots(
            down,
            across,
            figsize=(4.1 * across, 2.7 * down + 0.7),
            sharey="col",
            squeeze=False,
            layout="constrained",
        )
        panels = []
        for row, loss in enumerate(rows):
            for place, dim in enumerate(dims):
                cells = [cell for cell in report.cells if (cell.loss, cell.dim) == (loss, dim)]
                time, memory = axes[row][2 * place : 2 * place + 2]
                sizes = sorted({cell.n for cell in report.cells if cell.dim == dim})
                panels += [(time, _time_lines(cells), sizes), (memory, _memory_lines(cells), sizes)]
                words = f"{PROBLEMS[loss].title}, {dim} dimensions\n{_faster(cells)}"
                time.set_title(words, loc="left", fontsize=9.5, color=INK)
                memory.set_title(f"\n{_smaller(cells)}", loc="left", fontsize=9.5, color=INK)
                time.set_ylabel("seconds, forward and backward")
                memory.set_ylabel("peak memory above the inputs, MiB")
                if report.memory_gib is not None:
                    _draw_ceiling(memory, report.memory_gib, sizes)
        for axis, lines, sizes in panels:
            _draw_lines(axis, lines, sizes)
        for axis, lines, sizes in panels:  # the shared axes are settled now
            _name(axis, lines, max(sizes))
        for axis in axes[-1]:
            axis.set_xlabel("rows in the batch")
        figure.text(0.005, -0.01, _foot(report), fontsize=8, color=FLOOR, va="top")
        buffer = io.BytesIO()
        figure.savefig(buffer, dpi=110, bbox_inches="tight", metadata={"Software": None})
        plt.close(figure)
    return buffer.getvalue()


def _time_lines(cells: list[Cell]) -> list[Line]:
    mm = [(c.n, c.products["torch.mm"].middle) for c in cells]
    fastest = [(c.n, c.products["fastest"].middle) for c in cells]
    return [
        Line("its products, torch.mm", FAINT, mm, ":", 1.5),
        Line("its products, fastest", FLOOR, fastest, "--", 1.5),
        Line("nearfar", OURS, [(c.n, c.nearfar.times.middle) for c in cells if c.nearfar.times.seconds]),
        Line(
            "PML",
            THEIRS,
            [(c.n, c.peer.times.middle) for c in cells if c.peer.times.seconds],
            full=_is_full(cells),
        ),
    ]


def _memory_lines(cells: list[Cell]) -> list[Line]:
    def at_least(mib: float) -> float:
        return max(mib, 0.1)  # a small batch may fit into what the process has already

    ours = [(c.n, at_least(c.nearfar.peak_mib)) for c in cells if c.nearfar.peak_mib is not None]
    theirs = [(c.n, at_least(c.peer.peak_mib)) for c in cells if c.peer.peak_mib is not None]
    inputs = [(c.n, c.n * c.dim * 4 / 2**20) for c in cells if ours]
    return [
        Line("the gradient itself", FLOOR, inputs, "--", 1.5),
        Line("nearfar", OURS, ours),
        Line("PML", THEIRS, theirs, full=_is_full(cells)),
    ]


def _is_full(cells: list[Cell]) -> bool:
    return any(c.peer.state == DOES_NOT_FIT for c in cells)


def _draw_lines(axis: "Axes", lines: list[Line], sizes: list[int]) -> None:
    """Draw the curves on multiplying axes, with room for their names at the right."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axis.set_xscale("log", base=2)
    axis.set_yscale("log")
    for line in lines:
        if line.points:
            n, values = zip(*line.points, strict=True)
            axis.plot(n, values, line.style, color=line.colour, lw=line.width, marker="o", ms=3.5)
            if line.full:
                axis.plot(n[-1], values[-1], "X", color=line.colour, ms=9)
    axis.set_xticks(sizes, [f"{n // 1024}k" if n % 1024 == 0 else f"{n:,}" for n in sizes])
    axis.xaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_locator(LogLocator(numticks=9))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.10g}"))
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", color="#e2e8f0", lw=0.7)
    wide = max(sizes[-1] / sizes[0], 2.0)
    axis.set_xlim(sizes[0] / wide**0.06, sizes[-1] * wide**0.62)


def _draw_ceiling(axis: "Axes", gib: float, sizes: Sequence[int]) -> None:
    axis.axhline(1024 * gib, color=FAINT, lw=1, ls=":")
    words = f"{gib:.0f} GiB: all memory of this machine"
    axis.text(min(sizes), 1024 * gib * 1.4, words, color=FLOOR, fontsize=8, va="bottom")
    axis.plot(min(sizes), 1024 * gib * 5, alpha=0)  # room for the words


def _name(axis: "Axes", lines: list[Line], last: int) -> None:
    """Write each name at the end of its line, apart from each other; left of a line that ends early."""
    inside: Any = axis.transData + axis.transAxes.inverted()
    lines = [line for line in lines if line.points]
    for line in lines:
        n, value = line.points[-1]
        if n < last:
            x, y = inside.transform((n, value))
            _write(axis, x - 0.03, y, line.name, line.colour, "right")
    whole = [line for line in lines if line.points[-1][0] == last]
    ends = [inside.transform(line.points[-1]) for line in whole]
    places = spread_labels([float(y) for _, y in ends], 0.085, 0.03, 0.97)
    for line, (x, _), y in zip(whole, ends, places, strict=True):
        _write(axis, x + 0.02, y, line.name, line.colour, "left")


def _write(axis: "Axes", x: float, y: float, words: str, colour: str, side: Literal["left", "right"]) -> None:
    axis.text(x, y, words, transform=axis.transAxes, color=colour, ha=side, va="center", fontsize=8.5)


def _faster(cells: list[Cell]) -> str:
    """What the panel of times shows, at the largest size that both can do."""
    both = [c for c in cells if c.peer.times.seconds and c.nearfar.times.seconds]
    if both:
        cell = both[-1]
        ratio = cell.peer.times.middle / cell.nearfar.times.middle
        return f"{ratio:.2g} times as fast as PML at {cell.n:,} rows"
    own = [c for c in cells if c.nearfar.times.seconds]
    if not own:
        return "not measured"
    ratio = own[-1].nearfar.times.middle / own[-1].products["fastest"].middle
    return f"{ratio:.2g} times its products at {own[-1].n:,} rows"


def _smaller(cells: list[Cell]) -> str:
    """What the panel of memory shows, at the largest size that both can do."""
    both = [c for c in cells if c.peer.peak_mib and c.nearfar.peak_mib and c.nearfar.peak_mib > 0]
    if both:
        ours, theirs = both[-1].nearfar.peak_mib, both[-1].peer.peak_mib
        assert ours is not None
        assert theirs is not None
        share = f"1/{theirs / ours:.0f}" if theirs >= 2 * ours else f"{ours / theirs:.2g}"
        return f"{share} of PML's memory at {both[-1].n:,} rows"
    own = [c for c in cells if c.nearfar.peak_mib is not None]
    return f"{number(own[-1].nearfar.peak_mib or 0.0)} MiB at {own[-1].n:,} rows" if own else "not measured"


def _foot(report: Report) -> str:
    peer = f", PML: pytorch-metric-learning {report.versions.get('pytorch-metric-learning', '')}"
    return (
        f"{report.machine}, {report.threads} threads, torch {report.versions['torch']}"
        f"{peer if report.plan.peer else ''}. Median of up to {report.plan.repeats} rounds by turns; "
        "memory in a fresh process each. Beyond a cross it does not fit into memory. Both axes multiply."
    )
