"""The report as tables: short for the terminal, whole in Markdown."""

from collections.abc import Sequence

from nearfar.bench.busy import BusyReport
from nearfar.bench.losses import NOT_ASKED, PEER, Cell, Report, Taken
from nearfar.bench.memory import DOES_NOT_FIT, WARM
from nearfar.bench.problems import PROBLEMS
from nearfar.similarity.tiled.two_passes import KEPT

TERMINAL = ["loss", "n", "ours", "PML", "times", "/mm", "/best", "MiB", "PML"]
BUSY = ["loss", "n", "dim", "who", "alone", "beside", "slower", "over fair"]


def terminal_rows(report: Report, dim: int) -> list[list[str]]:
    """One row for each cell of these dimensions under ``TERMINAL``, as wide as a terminal is."""
    return [
        [
            cell.loss,
            f"{cell.n:,}",
            _seconds(cell.nearfar),
            _seconds(cell.peer).replace(DOES_NOT_FIT, "no room"),
            _ratio(_middle(cell.peer), _middle(cell.nearfar)),
            _ratio(_middle(cell.nearfar), cell.products["torch.mm"].middle),
            _ratio(_middle(cell.nearfar), cell.products["fastest"].middle),
            _mib(cell.nearfar),
            _mib(cell.peer).replace(DOES_NOT_FIT, "no room"),
        ]
        for cell in _ordered(report)
        if cell.dim == dim
    ]


def busy_rows(report: BusyReport) -> list[list[str]]:
    """One row for each cell under ``BUSY``."""
    return [
        [
            cell.loss,
            f"{cell.n:,}",
            str(cell.dim),
            "PML" if cell.who == PEER else cell.who,
            number(cell.alone.middle),
            number(cell.beside.middle),
            f"{cell.slower:.2f}",
            f"{cell.over_fair:.2f}",
        ]
        for cell in report.cells
    ]


def markdown(report: Report, picture: str | None = None) -> str:
    """The whole report; ``picture`` is the file that shows it."""
    plan = report.plan
    fastest = ", ".join(f"{name} at {dim} dimensions" for dim, name in report.fastest_product.items())
    against = f" and of {PEER}" if plan.peer else ""
    lines = [
        f"# Losses: time and memory of nearfar{against}",
        "",
        f"Command: `{report.command}`. Forward and backward of a batch against itself: n rows of unit "
        "length, four of each class around random centres, in random order, float32.",
        "",
        _where(report.machine, report.versions, report.commit, report.load_before)
        + f" Threads: {report.threads}. Backend: {plan.backend}{_chosen(report)}.",
        "",
        *([f"![Time and memory against the number of rows]({picture})", ""] if picture else []),
        "## Time",
        "",
        f"Median seconds on the wall clock of up to {plan.repeats} rounds, in which all take turns. "
        "*Products*: the bare matrix products that the loss cannot do without, in units of 2 n² dim "
        "operations: "
        + "; ".join(
            f"{name} {PROBLEMS[name].similarities + PROBLEMS[name].gradients:g}" for name in plan.losses
        )
        + f". By `torch.mm` on strips of 512 rows, and by the fastest product found here ({fastest}).",
        "",
        *_table(
            [
                "loss", "n", "dim", "nearfar", PEER, "times as fast", "products, torch.mm",
                "nearfar / these", "products, fastest", "nearfar / these", "rounds",
            ],
            [_time_row(cell) for cell in _ordered(report)],
        ),
        "",
        "## Memory, processor time, agreement",
        "",
        "Memory: the most that is resident in a process of its own, in MiB above what it was with inputs in "
        f"place, after one step of {WARM:,} rows (what libraries take once is not counted) and with freed "
        "memory given back; beside it the same less the gradient itself (n × dim × 4 bytes). Similarities "
        f"that fit {KEPT // 2**20} MiB, those of 4,096 rows do, wait for the backward pass. "
        "Processor time: of all threads, median seconds. Apart: |ours − theirs| of the value, "
        "relative, and of the gradient, relative to its largest component. A term within rounding of its "
        "margin may count in one and not in the other.",
        "",
        *_table(
            [
                "loss", "n", "dim", "nearfar, MiB", "less gradient", f"{PEER}, MiB", "times as small",
                "nearfar, CPU s", f"{PEER}, CPU s", "value apart", "gradient apart",
            ],
            [_memory_row(cell) for cell in _ordered(report)],
        ),
        "",
    ]  # fmt: skip
    return "\n".join(lines)


def busy_markdown(report: BusyReport) -> str:
    """The whole report of the losses beside a busy process."""
    lines = [
        "# Losses beside a busy process",
        "",
        f"Command: `{report.command}`. Forward and backward, alone and while another process keeps one core "
        f"busy, as a worker of a data loader does; by turns, median of {report.plan.repeats} rounds.",
        "",
        _where(report.machine, report.versions, report.commit, report.load_before)
        + f" {report.threads} threads on {report.cores} cores: shared alike with the other process, that "
        f"takes {report.fair:.2f} times as long. *Over fair*: measured slow-down over that; 1 is fair. "
        f"PML: {PEER}. Seconds.",
        "",
        *_table(BUSY, busy_rows(report)),
        "",
    ]
    return "\n".join(lines)


def number(value: float) -> str:
    """Three digits: 0.00123, 1.23, 123, 1,230."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _ordered(report: Report) -> list[Cell]:
    """The cells by loss and dimensions, small ones first."""
    names = report.plan.losses
    return sorted(report.cells, key=lambda cell: (names.index(cell.loss), cell.dim, cell.n))


def _time_row(cell: Cell) -> list[str]:
    ours = _middle(cell.nearfar)
    mm, fastest = cell.products["torch.mm"].middle, cell.products["fastest"].middle
    return [
        cell.loss,
        f"{cell.n:,}",
        str(cell.dim),
        _seconds(cell.nearfar),
        _seconds(cell.peer),
        _ratio(_middle(cell.peer), ours),
        number(mm),
        _ratio(ours, mm),
        number(fastest),
        _ratio(ours, fastest),
        str(len(cell.products["torch.mm"].seconds)),
    ]


def _memory_row(cell: Cell) -> list[str]:
    ours, theirs = cell.nearfar, cell.peer
    less = ours.peak_less_gradient_mib
    return [
        cell.loss,
        f"{cell.n:,}",
        str(cell.dim),
        _mib(ours),
        "-" if less is None else number(max(0.0, less)),
        _mib(theirs),
        _ratio(theirs.peak_mib, ours.peak_mib),
        number(ours.times.cpu_middle) if ours.times.seconds else "-",
        number(theirs.times.cpu_middle) if theirs.times.seconds else "-",
        "-" if cell.value_error is None else f"{cell.value_error:.0e}",
        "-" if cell.gradient_error is None else f"{cell.gradient_error:.0e}",
    ]


def _where(machine: str, versions: dict[str, str], commit: str, load: float) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in versions.items())
    return f"Machine: {machine}; load {load:.1f} before the first run. {packages}. Commit: {commit}."


def _chosen(report: Report) -> str:
    """What "auto" took, if it took one for all."""
    taken = sorted({cell.nearfar.computed_by for cell in report.cells if cell.nearfar.computed_by})
    return f" (took {', '.join(taken)})" if report.plan.backend == "auto" and taken else ""


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(row)} |" for row in (titles, ["---"] * len(titles), *rows)]


def _middle(taken: Taken) -> float | None:
    return taken.times.middle if taken.times.seconds else None


def _seconds(taken: Taken) -> str:
    return number(taken.times.middle) if taken.times.seconds else _state(taken)


def _mib(taken: Taken) -> str:
    return _state(taken) if taken.peak_mib is None else number(taken.peak_mib)


def _state(taken: Taken) -> str:
    return "-" if taken.state in (NOT_ASKED, "ok") else taken.state


def _ratio(above: float | None, below: float | None) -> str:
    if above is None or not below or below <= 0:
        return "-"
    ratio = above / below
    return f"{ratio:,.0f}" if ratio >= 100 else f"{ratio:.1f}" if ratio >= 10 else f"{ratio:.2f}"
