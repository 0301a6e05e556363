"""A comparison of runs as words, as a picture and as numbers."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

from nearfar.printable import printable
from nearfar.report.compare import METRICS, Group, Metric
from nearfar.report.figures import percent, span
from nearfar.report.svg import Drawing, Scale, number, ticks

SAW = {
    "unseen": "Training saw none of {}.",
    "seen": "Training saw all of {}, so the figures do not tell how new classes would do.",
    "some": "Training saw some of {}, so the figures do not tell how new classes alone would do.",
    "unknown": "Whether training saw {} is not known.",
}
ROW, HEAD, FOOT, WIDTH = 30, 34, 44, 960
STYLE = """
text{font:14px system-ui,-apple-system,"Segoe UI",Roboto,Arial,sans-serif;fill:#15181e}
.head{font-weight:620;font-size:16px}.small{font-size:12px;fill:#565e6c}.value{font-variant-numeric:tabular-nums}
.grid{stroke:#e4e7ec}.whisker{stroke:#2463eb;stroke-width:2}.seed{fill:#2463eb;opacity:.35}.mean{fill:#2463eb}
.paper{fill:#fff}
"""


def table(groups: Sequence[Group]) -> tuple[list[str], list[list[str]]]:
    """Return the titles and the rows that every form of the comparison shows."""
    columns = [f"{name}, %" for name in METRICS.values()]
    titles = ["data", "setting", *columns, "behind the best", "seeds", "training, s"]
    rows = []
    for group in groups:
        best = next(one for one in groups if one.data == group.data)
        cells = [group.data, group.name, *(_points(group.figure(metric)) for metric in METRICS)]
        ahead = best.ahead_of(group, "recall_at_1")
        behind = "" if group is best else "-" if ahead is None else _points(ahead)
        seconds = f"{group.seconds:.{int(group.seconds < 10)}f}" if group.seconds >= 0 else "-"
        rows.append([*cells, behind, str(len(group.runs)), seconds])
    return titles, rows


def markdown(groups: Sequence[Group], title: str, picture: str) -> str:
    """Return the comparison as a page of Markdown that shows ``picture``."""
    titles, rows = table(groups)
    lines = [f"# {title}", "", notes(groups), "", f"![Recall@1 of each setting]({picture})", ""]
    lines += ["| " + " | ".join(titles) + " |", "|---|---|" + "--:|" * (len(titles) - 2)]
    lines += ["| " + " | ".join(map(_in_markdown, row)) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def notes(groups: Sequence[Group]) -> str:
    """Say what the figures and intervals are."""
    several = any(len(group.runs) > 1 for group in groups)
    single = any(len(group.runs) == 1 for group in groups)
    words = [f"Each test image searches all others. {said_of_classes(groups)}"]
    words.append("A setting is named by what most runs have not.")
    if several:
        words.append("Means over seeds with their 95 % Student intervals.")
    if single:
        words.append("Of a single run the interval is a bootstrap over test classes.")
    if several:
        words.append(
            '"Behind the best" is the mean difference over common seeds, in points; where its interval '
            "holds 0 the two may be equal; - where fewer than two seeds are common."
        )
    words.append("Choose settings by validation, not by this table: it is read from the test.")
    return " ".join(words)


def said_of_classes(groups: Sequence[Group]) -> str:
    """Say what training saw of the test classes, where it is one thing for all runs; else name the runs."""
    runs = [run for group in groups for run in group.runs]
    kinds: dict[str, list[str]] = {}
    for run in runs:
        kinds.setdefault(run.seen.kind, []).append(printable(run.folder.name))
    if len({(run.seen.classes, run.seen.seen, bool(run.seen.learned)) for run in runs}) == 1:
        return runs[0].seen.sentence if runs[0].seen.classes else SAW["unknown"].format("the test classes")
    if len(kinds) == 1:
        return SAW[runs[0].seen.kind].format("the test classes")
    return " ".join(
        SAW[kind].format(f"the test classes of {', '.join(names[:5])}{' and more' * (len(names) > 5)}")
        for kind, names in kinds.items()
    )


def numbers(groups: Sequence[Group]) -> dict[str, Any]:
    """Return what is compared, as it can be written as JSON."""
    return {
        "format": 1,
        "groups": [
            {
                "data": group.data,
                "setting": group.name,
                **{metric: _interval(group.figure(metric)) for metric in METRICS},
                "training_seconds": None if math.isnan(group.seconds) else group.seconds,
                "runs": [
                    {
                        "folder": str(run.folder),
                        "seed": run.seed,
                        "training_saw": run.seen.to_dict(),
                        **{metric: run.figures[metric][0] for metric in METRICS},
                    }
                    for run in group.runs
                ],
            }
            for group in groups
        ],
    }


def draw(groups: Sequence[Group]) -> str:
    """Draw Recall@1 of every setting with its interval and its seeds, as an SVG that stands alone."""
    data = list(dict.fromkeys(group.data for group in groups))
    height = sum(HEAD + FOOT + ROW * sum(group.data == name for group in groups) for name in data)
    drawing = Drawing(WIDTH, height, "Recall@1 of each setting")
    drawing.bar(0, 0, WIDTH, height, "paper")
    top = 0.0
    for name in data:
        top = _panel(drawing, name, [group for group in groups if group.data == name], top)
    svg = drawing.render()
    cut = svg.index(">") + 1
    opening = svg[:cut].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1)
    return f"{opening}<style>{STYLE}</style>{svg[cut:]}\n"


def _panel(drawing: Drawing, data: str, groups: Sequence[Group], top: float) -> float:
    figures = [group.figure("recall_at_1") for group in groups]
    label = 24 + 7.4 * max(len(group.name) for group in groups)
    low, high = min(low for _, low, _ in figures), max(high for _, _, high in figures)
    room = max(high - low, 0.02) * 0.06
    across = Scale(max(0.0, low - room), min(1.0, high + room), label, WIDTH - 170)
    end = top + HEAD + ROW * len(groups)
    drawing.text(12, top + 23, data, kind="head")
    for tick in ticks(across.low, across.high, 6):
        drawing.line(across(tick), top + HEAD, across(tick), end, "grid")
        drawing.text(across(tick), end + 17, f"{100 * tick:g}", kind="small", anchor="middle")
    drawing.text((across.start + across.end) / 2, end + 34, "Recall@1, %", kind="small", anchor="middle")
    for place, (group, (value, least, most)) in enumerate(zip(groups, figures, strict=True)):
        middle = top + HEAD + ROW * (place + 0.5)
        drawing.text(12, middle + 5, group.name)
        ends = across(max(least, across.low)), across(min(most, across.high))
        drawing.line(ends[0], middle, ends[1], middle, "whisker")
        if len(group.runs) > 1:
            for run in group.runs:
                drawing.dot(across(run.figures["recall_at_1"][0]), middle, 4, "seed", f"seed {run.seed}")
        drawing.dot(across(value), middle, 5, "mean", f"{group.name}: {number(100 * value)} %")
        drawing.text(WIDTH - 158, middle + 5, percent(value), kind="value")
        drawing.text(WIDTH - 96, middle + 5, span(least, most), kind="small value")
    return end + FOOT


def _in_markdown(cell: str) -> str:
    """Return the text of a cell, in which a name is neither markup nor the end of the cell."""
    return escape(printable(cell), quote=False).replace("|", "\\|")


def _points(figure: Metric) -> str:
    mean, low, high = (100 * x for x in figure)
    return f"{mean:.1f} ({low:.1f} to {high:.1f})"


def _interval(figure: Metric) -> dict[str, float]:
    return dict(zip(("value", "low", "high"), figure, strict=True))
