"""Begin a run in a folder, or go on with the one that is there."""

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import torch

from nearfar.config import Config
from nearfar.config.loss_settings import check_settings
from nearfar.distributed import by_rank_0, joined, rank, world_size
from nearfar.errors import NearfarError
from nearfar.models import Embedder
from nearfar.train.allocator import keep_freed_memory
from nearfar.train.checkpoint import no_space_in_one_sentence
from nearfar.train.folder import begin, damage_of_best, forget, open_folder
from nearfar.train.journal import Journal
from nearfar.train.live import Live
from nearfar.train.lock import taken
from nearfar.train.loop import Run, RunResult
from nearfar.train.plan import plan
from nearfar.train.precision import choose_device, repeatable
from nearfar.train.randomness import own_randomness
from nearfar.train.ranks import check_batch, own_device
from nearfar.train.setup import assemble, tables_of
from nearfar.train.state import Progress
from nearfar.train.stopping import stopped_before_training
from nearfar.train.tracking import Tracker


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: bool = False,
    from_previous: bool = False,
    dry_run: bool = False,
    command: str = "",
    progress: bool = True,
    embedder: Embedder | None = None,
    trackers: Sequence[Tracker] = (),
) -> RunResult:
    """Train an embedder and leave the best one in ``folder/model``.

    Args:
        config: all that decides the run.
        folder: of the run; new, or that of the run to resume.
        resume: go on from ``folder/last``. The final weights are those of a run that was never stopped.
        from_previous: with ``resume``, go on from the checkpoint before the last, where the last is damaged.
        dry_run: send one batch through everything, show what a run costs, write nothing.
        command: the command line, for the log and the model's card.
        progress: show the run on stderr.
        embedder: trained instead of the one that ``config.model`` describes; a resumed run needs it again.
        trackers: further places that the numbers go to, beside ``log.jsonl``.

    Raises:
        ConfigError: if a setting of the loss does not exist.
        CheckpointError: if the folder and ``resume`` do not fit, the checkpoint is damaged, another training
            writes to the folder, or the device is full.
        RunInterrupted: after Ctrl-C, SIGTERM or SIGHUP, with a checkpoint written.
        TrainingDiverged: if the loss is no number any more.
    """
    check_settings(config)
    folder = Path(folder)
    with joined(), own_randomness(), repeatable(), no_space_in_one_sentence(folder):
        check_batch(config.batch.classes_per_batch, config.batch.images_per_class)
        first = rank() == 0
        progress = progress and first
        device = own_device(choose_device(config.train.device))
        if device.type == "cpu":
            keep_freed_memory()
        if dry_run:
            if world_size() > 1:
                raise NearfarError("a dry run looks at one process; start it without torchrun.")
            found = plan(config, assemble(config, tables_of(config), device, embedder))
            Live(0, 0, progress).say(str(found))
            return RunResult(folder, 0, {}, 0.0, found)
        with ExitStack() as stack:
            by_rank_0(lambda: _take(folder, stack))
            stack.enter_context(stopped_before_training())
            return _train_in(
                folder,
                config,
                resume=resume,
                from_previous=from_previous,
                command=command,
                progress=progress,
                embedder=embedder,
                trackers=trackers,
                device=device,
            )


def _train_in(
    folder: Path,
    config: Config,
    *,
    resume: bool,
    from_previous: bool,
    command: str,
    progress: bool,
    embedder: Embedder | None,
    trackers: Sequence[Tracker],
    device: torch.device,
) -> RunResult:
    """Train in a folder that is this run's alone."""
    first = rank() == 0
    # It may be on the disk of rank 0 alone.
    state = by_rank_0(lambda: open_folder(folder, config, resume, from_previous=from_previous))
    if state is not None and state["progress"]["finished"]:
        done = Progress(**state["progress"])
        length = f"{config.train.steps} steps" if config.train.steps else f"{config.train.epochs} epochs"
        told = Live(0, 0, progress)
        told.say(f"{folder} is finished: all {length} are done.")
        if first and (damage := damage_of_best(folder)) is not None:
            told.say(f"warning: {damage}")
        return RunResult(folder, done.best_epoch, done.best, done.seconds)
    parts = assemble(config, tables_of(config), device, embedder)
    journal = Journal(folder, config, trackers=trackers, shown=progress, silent=not first)
    run = None
    try:
        if first:
            begin(folder, config, parts.images.unreadable)
        run = Run(config, folder, parts, state, journal)
        return run.train(command)
    except BaseException:
        if first and state is None and (run is None or run.at.step == 0):
            forget(folder)  # nothing was learned, and the mended settings are to find the folder free
        raise


def _take(folder: Path, stack: ExitStack) -> None:
    stack.enter_context(taken(folder))
