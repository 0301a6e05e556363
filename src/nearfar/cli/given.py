"""What a command is given: the folder of a run, the source of the images."""

from pathlib import Path

from nearfar.cli.show import Steps
from nearfar.config import Config
from nearfar.errors import CheckpointError


def config_of(run: Path) -> Path:
    """Return the configuration of a run.

    Raises:
        CheckpointError: if this is not the folder of a run.
    """
    if not (run / "config.toml").is_file():
        raise CheckpointError(
            f"{run} is not the folder of a run: it has no config.toml; give one that train made."
        )
    return run / "config.toml"


def config_of_finished(run: Path) -> Path:
    """Return the configuration of a run that has its model.

    Raises:
        CheckpointError: if this is not the folder of a run, or its training is not finished.
    """
    found = config_of(run)
    if not (run / "model").is_dir():
        raise CheckpointError(
            f"the training of {run} is not finished; go on with: nearfar train {run} --resume"
        )
    return found


def config_to_evaluate(run: Path, source: str | None) -> Config:
    """Return the configuration of a finished run; for a saved model alone, one that reads ``source``.

    Raises:
        CheckpointError: if this is neither, or a model alone and no ``source`` is given.
    """
    if (run / "config.toml").is_file() or not (run / "weights.safetensors").is_file():
        return Config.load(config_of_finished(run))
    if source is None:
        raise CheckpointError(
            f"{run} is a model without its run, so it has no test classes; give images: "
            f"nearfar evaluate {run} DATA"
        )
    return Config.load(source)


def fetch(source: str) -> None:
    """Build a pack that is not there yet, with progress; any other source is left alone."""
    from nearfar.data import packs

    if source in packs.names():
        with Steps(source) as steps:
            packs.load(source, progress=lambda done, total, what: steps.step(what, done, total))
