"""The command that measures: time and memory of the losses on this machine."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli.root import app
from nearfar.cli.show import Steps, print_grid, print_json, say

if TYPE_CHECKING:
    from nearfar.bench import Plan, Report

bench = typer.Typer()
app.add_typer(bench, name="bench")


@bench.callback()
def about() -> None:
    """Measure time and memory on this machine."""


@bench.command()
def losses(
    loss: Annotated[
        list[str] | None,
        typer.Option(
            help="supcon, multi_similarity, triplet_hard or triplet_all; again for more.",
            show_default="all of them",
        ),
    ] = None,
    n: Annotated[
        list[int] | None, typer.Option(help="Rows in the batch; again for more.", show_default="1024 4096")
    ] = None,
    dim: Annotated[
        list[int] | None, typer.Option(help="Dimensions; again for more.", show_default="128 512")
    ] = None,
    repeats: Annotated[int, typer.Option(help="Rounds, whose median counts.", min=1)] = 5,
    backend: Annotated[str, typer.Option(help="What computes our losses.")] = "auto",
    peer: Annotated[bool, typer.Option("--peer/--no-peer", help="Beside pytorch-metric-learning.")] = True,
    busy: Annotated[
        bool, typer.Option("--busy", help="Instead: how much slower beside another busy process.")
    ] = False,
    limit: Annotated[
        float | None,
        typer.Option(help="GiB that a loss may take.", show_default="9/10 of what is free", min=0),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(help="Threads of torch.", show_default="as many as it takes", min=1)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder to write JSON, Markdown and a picture to.", show_default=False
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Time and peak memory of the losses, beside pytorch-metric-learning and their bare matrix products."""
    from nearfar.bench import Plan, check_folder

    plan = Plan(
        losses=tuple(loss or Plan.losses),
        n=tuple(n or Plan.n),
        dims=tuple(dim or Plan.dims),
        repeats=repeats,
        backend=backend,
        peer=peer,
        limit=limit,
        threads=threads,
    )
    plan.check()
    if output is not None:
        check_folder(output)
    measure = _busy if busy else _losses
    measure(plan, output, as_json)


def _losses(plan: "Plan", output: Path | None, as_json: bool) -> None:
    from nearfar.bench import TERMINAL, measure, terminal_rows, write, write_json

    def save(report: "Report") -> None:
        if output is not None:
            write_json(report, output, "losses")

    with Steps("measure") as steps:
        report = measure(plan, progress=steps, save=save)
    files = [] if output is None else write(report, output)
    if as_json:
        print_json(report)
        return
    say(
        f"{report.machine}, {report.threads} threads, load {report.load_before:.1f}. "
        "Seconds forward and backward,\nand how many times as fast as PML (pytorch-metric-learning); ours "
        "over its bare products\nby torch.mm and by the best; peak memory in MiB."
    )
    for dim in plan.dims:
        say(f"\n{dim} dimensions")
        print_grid(TERMINAL, terminal_rows(report, dim), right=range(1, len(TERMINAL)))
    _say(files)


def _busy(plan: "Plan", output: Path | None, as_json: bool) -> None:
    from nearfar.bench import BUSY, busy_rows, measure_busy, write_busy

    with Steps("measure") as steps:
        report = measure_busy(plan, progress=steps)
    files = [] if output is None else write_busy(report, output)
    if as_json:
        print_json(report)
        return
    say(
        f"{report.machine}, {report.threads} threads on {report.cores} cores; a fair share beside one busy "
        f"process takes {report.fair:.2f} times as long."
    )
    print_grid(BUSY, busy_rows(report), right=(1, 2, 4, 5, 6, 7))
    _say(files)


def _say(files: list[Path]) -> None:
    if files:
        say(f"written: {', '.join(str(file) for file in files)}")
