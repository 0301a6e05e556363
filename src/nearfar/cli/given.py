"""What a command is given: the folder of a run, the source of the images."""

from pathlib import Path
from typing import Annotated

import typer

from nearfar.cli import completion
from nearfar.cli.show import Steps
from nearfar.config import Config
from nearfar.config.pictures import only_pictures
from nearfar.errors import CheckpointError
from nearfar.printable import printable

Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Settings, such as loss.beta=40 train.epochs=50.",
        show_default=False,
        autocompletion=completion.settings,
    ),
]
Pictures = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Where the pictures are now, such as data.source=photos; or data.skip_unreadable=true.",
        show_default=False,
        autocompletion=completion.pictures,
    ),
]
Folder = Annotated[
    Path | None,
    typer.Option(
        "--folder",
        help="Folder of the run; runs/NAME unless given.",
        show_default=False,
        autocompletion=completion.runs,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
RUN = typer.Argument(
    metavar="RUN", help="Folder of a run.", show_default=False, autocompletion=completion.runs
)
Run = Annotated[Path, RUN]


def config_of(run: Path) -> Path:
    """Return the configuration of a run.

    Raises:
        CheckpointError: if this is not the folder of a run.
    """
    if not (run / "config.toml").is_file():
        raise CheckpointError(
            f"{printable(run)} is not the folder of a run: it has no config.toml; give one that train made."
        )
    return run / "config.toml"


def config_to_evaluate(run: Path, source: str | None, overrides: list[str]) -> Config:
    """Return the configuration of a finished run; for a saved model alone, one that reads ``source``.

    Raises:
        CheckpointError: if this is neither, or a model alone and no ``source`` is given.
    """
    from nearfar.report.opened import finished_config

    if (run / "config.toml").is_file() or not (run / "weights.safetensors").is_file():
        return finished_config(run, overrides)
    if source is None:
        raise CheckpointError(
            f"{printable(run)} is a model without its run, so it has no test classes; give images: "
            f"nearfar evaluate {printable(run)} DATA"
        )
    return Config.load(source, only_pictures(overrides))


def fetch(source: str) -> None:
    """Build a pack that is not there yet, with progress; any other source is left alone."""
    from nearfar.data import packs

    if source in packs.names():
        with Steps(source) as steps:
            packs.load(source, progress=lambda done, total, what: steps.step(what, done, total))
