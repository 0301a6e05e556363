"""Begin a run in a folder, or go on with the one that is there."""

from collections.abc import Sequence
from pathlib import Path

from nearfar.config import Config
from nearfar.config.loss_settings import check_settings
from nearfar.distributed import by_rank_0, joined, rank, world_size
from nearfar.errors import NearfarError
from nearfar.models import Embedder
from nearfar.train.allocator import keep_freed_memory
from nearfar.train.checkpoint import no_space_in_one_sentence
from nearfar.train.folder import begin, open_folder
from nearfar.train.journal import Journal
from nearfar.train.live import Live
from nearfar.train.loop import Run, RunResult
from nearfar.train.plan import plan
from nearfar.train.precision import choose_device, repeatable
from nearfar.train.randomness import own_randomness
from nearfar.train.ranks import check_batch, own_device
from nearfar.train.setup import assemble, tables_of
from nearfar.train.state import Progress
from nearfar.train.tracking import Tracker


def train(
    config: Config,
    folder: str | Path,
    *,
    resume: bool = False,
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
        dry_run: send one batch through everything, show what a run costs, write nothing.
        command: the command line, for the log and the model's card.
        progress: show the run on stderr.
        embedder: trained instead of the one that ``config.model`` describes; a resumed run needs it again.
        trackers: further places that the numbers go to, beside ``log.jsonl``.

    Raises:
        ConfigError: if a setting of the loss does not exist.
        CheckpointError: if the folder and ``resume`` do not fit, or the device is full.
        RunInterrupted: after Ctrl-C or SIGTERM, with a checkpoint written.
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
        state = by_rank_0(lambda: open_folder(folder, config, resume))  # it may be on that one's disk alone
        if state is not None and state["progress"]["finished"]:
            done = Progress(**state["progress"])
            length = f"{config.train.steps} steps" if config.train.steps else f"{config.train.epochs} epochs"
            Live(0, 0, progress).say(f"{folder} is finished: all {length} are done.")
            return RunResult(folder, done.best_epoch, done.best, done.seconds)
        parts = assemble(config, tables_of(config), device, embedder)
        if first:
            begin(folder, config, parts.images.unreadable)
        journal = Journal(folder, config, trackers=trackers, shown=progress, silent=not first)
        return Run(config, folder, parts, state, journal).train(command)
