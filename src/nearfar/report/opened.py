"""A finished run with its pictures, wherever they are now."""

import logging
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from nearfar.config import Config
from nearfar.config.pictures import only_pictures
from nearfar.config.source import read_source
from nearfar.data import Table, packs, train_and_test
from nearfar.data.images import without_unreadable
from nearfar.data.seen import Seen
from nearfar.errors import CheckpointError, ConfigError, DataError, NearfarError
from nearfar.models.saved import DESCRIPTION
from nearfar.printable import printable
from nearfar.train.folder import CONFIG, MODEL
from nearfar.train.setup import Tables, tables_of

log = logging.getLogger("nearfar")


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, its configuration and its tables."""

    folder: Path
    config: Config
    tables: Tables


def open_run(folder: str | Path, overrides: Sequence[str] = (), *, command: str = "report") -> Run:
    """Read the configuration of a run and the tables of its pictures.

    Args:
        folder: of the run.
        overrides: where the pictures are now, such as "data.source=photos".
        command: of the command line, for the way on that an error tells.

    Raises:
        CheckpointError: if this is not the folder of a finished run.
        ConfigError: if an override is of anything but the pictures.
        DataError: if the pictures are not there, or nothing can be found among them.
    """
    folder = Path(folder)
    config = finished_config(folder, overrides)
    with telling_the_way_on(folder, config, command):
        return Run(folder, config, tables_of(config, begins=False))


def finished_config(folder: Path, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a run that has its model.

    Raises:
        CheckpointError: if this is not the folder of a run, or its training is not finished.
        ConfigError: if its configuration cannot be used, or an override is of anything but the pictures.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{printable(folder)} is not the folder of a run: it has no {CONFIG}; give one that train made."
        )
    if not (folder / MODEL).is_dir():
        raise CheckpointError(
            f"the training of {printable(folder)} is not finished; go on with: "
            f"nearfar train {printable(folder)} --resume"
        )
    try:
        return Config.load(folder / CONFIG, only_pictures(overrides))
    except ConfigError as error:
        raise ConfigError(f"{printable(folder)}: {error}") from None


def measured_table(folder: Path, config: Config, source: str | None, *, skip: bool) -> Table:
    """Return the images that ``evaluate`` is of: the run's own test half, or those of another source.

    Args:
        folder: of the run.
        config: of the run.
        source: of other images.
        skip: leave out what is missing or broken, and say so.

    Raises:
        DataError: if they are not there, or no class has two of them.
    """
    data = config.data.model_copy(update={"skip_unreadable": skip})
    if source is None:
        with telling_the_way_on(folder, config, "evaluate"):
            table = train_and_test(read_source(data), config.data.split_seed)[1]
    else:
        table = read_source(data, source)
        split = table.columns.get("split")
        table = table if split is None or not (split == "test").any() else table.select(split == "test")
    if skip:
        table = without_unreadable(table, skip=True)
    if np.unique(table.label, return_counts=True)[1].max(initial=0) < 2:
        raise DataError(
            f"no class of {printable(table.name or table.source)} has two images, so none can be found "
            "again. Give classes of two images or more; or take the embeddings alone: nearfar embed "
            f"{printable(folder)} PATHS -o vectors.npz"
        )
    return table


def trained_classes(folder: Path) -> tuple[str, ...]:
    """Return the names of the classes that a model, or a run's, learned from, as far as it tells them."""
    model = folder / MODEL if (folder / MODEL).is_dir() else folder
    try:
        told = tomllib.loads((model / DESCRIPTION).read_text(encoding="utf-8")).get("classes")
    except (OSError, ValueError, RecursionError):
        return ()
    return tuple(name for name in told if isinstance(name, str)) if isinstance(told, list) else ()


def learned_from(folder: Path, config: Config, table: Table) -> Seen:
    """Say what training saw of a table: by the classes in the model, and by the paths of its images.

    The training half is read again for the paths; where it cannot be, they are not known.
    """
    try:  # a model alone does not know them
        own = (folder / CONFIG).is_file()
        paths = tables_of(config, begins=False).train.path.tolist() if own else None
    except (NearfarError, OSError):
        paths = None
    return Seen.of(table, trained_classes(folder), paths)


@contextmanager
def telling_the_way_on(folder: Path, config: Config, command: str) -> Iterator[None]:
    """Refuse a source that is not where it was; add to what is wrong with one what can be done about it.

    Raises:
        DataError: that tells a command.
    """
    place = config.data.source if config.data.root is None else config.data.root
    try:
        if place not in packs.names() and not Path(place).exists():
            raise DataError(
                f"the pictures of {printable(folder)} were in {printable(place)}, which is not there now"
            )
        yield
    except DataError as error:
        raise DataError(f"{str(error).rstrip('.')}. {way_on(folder, command)}") from None


def way_on(folder: Path, command: str) -> str:
    """Say what to do about pictures that are not there or cannot be searched."""
    where = printable(folder)
    return (
        f"If they are elsewhere, say where: nearfar {command} {where} data.source=PLACE; to turn pictures "
        f"into embeddings without a report: nearfar embed {where} PATHS -o vectors.npz"
    )


def check_classes(run: Run, learned: Sequence[str]) -> None:
    """Say where the training half is not of the classes that the model learned from."""
    train = run.tables.train
    here = {train.classes[label] for label in np.unique(train.label)}
    if learned and here != set(learned):
        log.warning(
            "%s has %d of the %d classes that the model of %s learned from, and %d others for training: "
            "these are not the pictures of that run.",
            train.name or train.source,
            len(here & set(learned)),
            len(learned),
            run.folder,
            len(here - set(learned)),
        )
