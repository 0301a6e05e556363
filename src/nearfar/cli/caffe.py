"""The command that takes over a Caffe net's recipe."""

import warnings
from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli.root import app
from nearfar.cli.show import print_grid, print_json, say
from nearfar.errors import DataError

caffe = typer.Typer()
app.add_typer(caffe, name="caffe")


@caffe.callback()
def about() -> None:
    """Take over metric-learning nets of Caffe."""


@caffe.command("import")
def import_(
    net: Annotated[
        Path, typer.Argument(metavar="NET.prototxt", help="Definition of the net.", show_default=False)
    ],
    solver: Annotated[
        Path | None, typer.Argument(metavar="SOLVER.prototxt", help="Its solver.", show_default=False)
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Recipe to write.", show_default="the net's name, with .toml, here"
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the recipe if it is there.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Write a recipe that nearfar trains: loss, mining, batch, images, optimiser; say what differs."""
    from nearfar.caffe.recipe import import_net
    from nearfar.files import write_atomically

    output = output or Path(net.stem + ".toml")
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output.parent}: there is no such folder to write to; make it first.")
    if output.is_dir():
        raise DataError(f"{output} is a folder; name a file in it with -o.")
    if output.absolute() in [path.absolute() for path in (net, solver) if path is not None]:
        raise DataError(f"{output} is what is read, and would be lost; name another file with -o.")
    if output.exists() and not overwrite:
        raise DataError(f"{output} is there already; name another file with -o, or add --overwrite.")
    recipe = import_net(net, solver, name=str(output))
    for fault in recipe.faults:
        warnings.warn(fault, stacklevel=2)
    write_atomically(output, recipe.toml)
    if as_json:
        rows = [row._asdict() for row in recipe.rows]
        print_json({"file": output, "rows": rows, "faults": recipe.faults})
        return
    print_grid(["found", "becomes", "differs"], recipe.rows)
    say(f"\n{output}: nearfar train {output} data.source=PICTURES")
