"""The command that puts runs side by side."""

import json
from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli import completion
from nearfar.cli.root import app
from nearfar.cli.show import Steps, print_json, print_wide, say
from nearfar.errors import NearfarError
from nearfar.files import write_atomically


@app.command()
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN RUN...",
            help="Folders of runs.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "-o", "--out", help="Write FILE.md, and FILE.svg and FILE.json beside it.", show_default=False
        ),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "Runs side by side",
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Put runs side by side: seeds of one setting together, every figure with its spread."""
    if out is not None and out.suffix != ".md":
        raise NearfarError(f"{out} is not a Markdown file; give a name that ends in .md.")
    from nearfar.report.compare import group, read_runs
    from nearfar.report.compare_page import draw, markdown, notes, numbers, table

    with Steps("test") as steps:
        groups = group(read_runs(runs, steps.step))
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        picture = out.with_suffix(".svg")
        write_atomically(picture, draw(groups))
        write_atomically(out.with_suffix(".json"), json.dumps(numbers(groups), indent=1) + "\n")
        write_atomically(out, markdown(groups, title, picture.name))
    if as_json:
        print_json(numbers(groups))
        return
    titles, rows = table(groups)
    print_wide(titles, rows, right=range(2, len(titles)))
    say(f"\n{notes(groups)}" + ("" if out is None else f"\n\nThe page: {out.resolve()}"))
