"""The command `nearfar` itself: what every file of commands adds its own to."""

from typing import Annotated

import typer

import nearfar

app = typer.Typer(
    name="nearfar",
    help="Similar things near, different things far: train, measure and report embeddings of images.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"nearfar {nearfar.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Similar things near, different things far: train, measure and report embeddings of images.

    Any command takes --debug, which shows the traceback of an error.
    """
