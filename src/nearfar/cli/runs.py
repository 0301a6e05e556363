"""Commands that make and read runs: demo, train, evaluate, report."""

import json
import re
import shlex
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib.resources import as_file, files
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearfar.cli import completion
from nearfar.cli.given import Folder, Json, Overrides, Pictures, Run, config_of, config_to_evaluate, fetch
from nearfar.cli.launch import began_here, by_first, is_restarted, once_a_machine, ranks
from nearfar.cli.root import app
from nearfar.cli.searched import search
from nearfar.cli.show import Steps, print_json, say
from nearfar.config import Config
from nearfar.errors import CheckpointError
from nearfar.printable import printable, quoted

if TYPE_CHECKING:
    from nearfar.data import Table
    from nearfar.evaluate import RetrievalResult


@app.command()
def demo(overrides: Overrides = None, folder: Folder = None, as_json: Json = False) -> None:
    """Train on small pictures of objects for a few minutes and report what was learned."""

    def place() -> tuple[Config, Path, bool]:
        with as_file(files("nearfar.cli") / "demo.toml") as path:
            config = Config.load(path, overrides or [])
        found = _begun("demo", folder)
        return config, found or folder or _new_folder("demo"), found is not None

    _train(place, report=True, as_json=as_json)


@app.command()
def train(
    source: Annotated[
        str,
        typer.Argument(
            metavar="CONFIG|SOURCE",
            help="A TOML file, a folder of class folders, a CSV or Parquet table, a pack, or a run's folder.",
            show_default=False,
            autocompletion=completion.recipes,
        ),
    ],
    overrides: Overrides = None,
    folder: Folder = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in the folder.")] = False,
    from_previous: Annotated[
        bool,
        typer.Option(
            "--from-previous", help="With --resume: from the checkpoint before the last, if that is damaged."
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="One batch through everything; say what a run costs; write nothing."),
    ] = False,
    no_report: Annotated[bool, typer.Option("--no-report", help="Train only.")] = False,
    as_json: Json = False,
) -> None:
    """Train an embedder, then report on the test half: classes it never saw, unless the source says else.

    On several GPUs or machines: torchrun --nproc-per-node 4 -m nearfar train CONFIG.
    """

    def config() -> Config:
        if (Path(source) / "config.toml").is_file():
            return Config.load(Path(source) / "config.toml", overrides or [])
        if resume and not source.endswith(".toml"):  # as it was begun, settings and all
            return Config.load(config_of(_folder_of(source, folder, resume=True)), overrides or [])
        return Config.load(source, overrides or [])

    def place() -> tuple[Config, Path, bool]:
        found = _begun(_name(source), folder)
        wanted = config()  # first: a mistake there leaves no folder
        return wanted, found or _folder_of(source, folder, resume=resume), resume or found is not None

    if dry_run:
        _dry_run(config(), as_json)
    else:
        _train(place, report=not no_report, as_json=as_json, from_previous=from_previous)


@app.command()
def evaluate(
    run: Run,
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="[DATA]",
            help="Other images; the run's own test images unless given.",
            show_default=False,
            autocompletion=completion.data,
        ),
    ] = None,
    overrides: Pictures = None,
    bootstrap: Annotated[int, typer.Option(help="Resamples for the intervals; 0 for none.", min=0)] = 1000,
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Go on without broken and missing images.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure how often a model finds the right thing first, on the test images or on others.

    The columns is_query, is_gallery, camera, sequence, id and box of a table are followed.
    """
    from nearfar.data import UnreadableImage
    from nearfar.data.images import without_unreadable
    from nearfar.report.opened import learned_from, measured_table

    given = list(overrides or [])
    if source is not None and "=" in source and not Path(source).exists():
        given, source = [source, *given], None
    with ranks() as first:
        config = config_to_evaluate(run, source, given)
        once_a_machine(lambda: fetch(source or config.data.source))
        table = measured_table(run, config, source, skip=skip_unreadable or config.data.skip_unreadable)
        try:
            asked, result = _search(run, table, bootstrap, shown=first)
        except UnreadableImage:
            without_unreadable(table, skip=False, advice="give --skip-unreadable")
            raise
    if not first:
        return
    saw = learned_from(run, config, table)
    if as_json:
        print_json({"asked": asked, **result.to_dict(), "training_saw": saw.to_dict()})
    else:
        say(f"{asked}.\n{saw.sentence}\n\n{result}")


def _search(run: Path, table: "Table", bootstrap: int, *, shown: bool) -> tuple[str, "RetrievalResult"]:
    """Embed a table, on all ranks, and search it as its columns say."""
    import numpy as np

    import nearfar
    from nearfar.train.precision import choose_device
    from nearfar.train.ranks import own_batches, own_device, put_together

    with Steps("embed") as steps:
        model = nearfar.load(run).to(own_device(choose_device("auto")))
        own = own_batches(len(table), 64)
        some = table.select(np.array([row for batch in own for row in batch], np.int64))
        embeddings = put_together(model.encode(some, batch_size=64, progress=steps if shown else None), own)
    with warnings.catch_warnings():  # several images of one id: that is what its column is for
        warnings.simplefilter("ignore", nearfar.evaluate.RepeatedIdWarning)
        return search(embeddings, table, bootstrap)


@app.command()
def report(
    run: Run,
    against: Annotated[
        Path | None,
        typer.Option(
            help="Folder of an earlier run to compare with.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ] = None,
    overrides: Pictures = None,
    as_json: Json = False,
) -> None:
    """Write report.html, report.png and result.json into the folder of a run."""
    from nearfar.report.opened import finished_config

    once_a_machine(lambda: fetch(finished_config(run, overrides or []).data.source))
    path = _report(run, against, overrides or [])
    if as_json:
        print_json(json.loads(path.with_name("result.json").read_text(encoding="utf-8")))
    else:
        _say_report(path)


def _train(
    place: Callable[[], tuple[Config, Path, bool]],
    *,
    report: bool,
    as_json: bool,
    from_previous: bool = False,
) -> None:
    """Train as ``place`` says: the configuration, the folder, and whether to go on there."""
    with ranks() as first:
        config, folder, resume = by_first(place)
        try:
            from nearfar.train import train

            once_a_machine(lambda: fetch(config.data.source))
            result = train(
                config,
                folder,
                resume=resume,
                from_previous=from_previous,
                command=shlex.join(["nearfar", *sys.argv[1:]]),
            )
        except BaseException:
            if first and folder.parent == Path("runs"):  # of a name that was made here
                with suppress(OSError):  # unless something was written there
                    folder.rmdir()
                    folder.parent.rmdir()
            raise
    if not first:
        return
    path = _report(folder, None, []) if report else None
    if as_json:
        shown: dict[str, Any] = {"folder": str(folder), "best_epoch": result.best_epoch}
        shown |= {"validation": result.validation, "seconds": result.seconds}
        shown["report"] = None if path is None else str(path)
        print_json(shown)
    elif path is not None:
        _say_report(path)


def _dry_run(config: Config, as_json: bool) -> None:
    from dataclasses import asdict

    from nearfar.train import train

    fetch(config.data.source)
    plan = train(config, ".", dry_run=True, progress=False).plan
    assert plan is not None
    if as_json:
        print_json(asdict(plan))
    else:
        say(plan)


def _report(run: Path, against: Path | None, overrides: list[str]) -> Path:
    from nearfar.report import gather, write_report

    if against is not None and not (against / "result.json").is_file():
        raise CheckpointError(
            f"{printable(against)} has no report to compare with; write it first: "
            f"nearfar report {printable(against)}"
        )
    with Steps("report") as steps:
        material = gather(run, against=against, overrides=overrides, progress=steps.step)
        return write_report(material, run, progress=steps.step)


def _say_report(path: Path) -> None:
    summary = json.loads(path.with_name("result.json").read_text(encoding="utf-8"))
    told = [summary["sentence"], summary["verdict"], *summary["training"]["lost"]]
    lines = "\n".join(words for words in told if words)
    say(f"\n{lines}\n\nThe report: {path.resolve()}")


def _folder_of(source: str, folder: Path | None, *, resume: bool) -> Path:
    """Return where a run of ``source`` lies: as said, the newest of its name to resume, else a new one."""
    if folder is not None:
        return folder
    if (Path(source) / "config.toml").is_file():
        return Path(source) if resume else _new_folder(Path(source).name)
    return _newest_folder(_name(source)) if resume else _new_folder(_name(source))


def _name(source: str) -> str:
    return Path(source).stem if Path(source).suffix in (".toml", ".csv", ".parquet") else Path(source).name


def _begun(name: str, folder: Path | None) -> Path | None:
    """Return the run to go on with where torchrun restarts the command that began it."""
    if not is_restarted():
        return None
    if folder is None:
        runs = _runs(name)
        folder = _newest(runs) if runs else None
    return folder if folder is not None and began_here(folder) else None


def _new_folder(name: str) -> Path:
    """Make runs/NAME, or NAME-2, -3 and so on where that is taken; two that ask at once get two."""
    folder, number = Path("runs") / name, 1
    while True:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
            folder = Path("runs") / f"{name}-{number}"
        else:
            return folder


def _newest_folder(name: str) -> Path:
    """Return the run of this name that was written to last."""
    runs = _runs(name)
    if not runs:
        raise CheckpointError(
            f"there is no run of {quoted(name)} in runs/ to resume; give its folder with --folder."
        )
    return _newest(runs)


def _runs(name: str) -> list[Path]:
    numbered = re.compile(re.escape(name) + r"(-\d+)?")
    return [
        path.parent for path in Path("runs").glob("*/config.toml") if numbered.fullmatch(path.parent.name)
    ]


def _newest(runs: list[Path]) -> Path:
    return max(runs, key=lambda path: max(file.stat().st_mtime for file in path.iterdir()))
