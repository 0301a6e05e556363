"""The training loop: steps, validation, checkpoints; stopped at any moment, it goes on bit for bit."""

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from nearfar.config import Config
from nearfar.config.loss_settings import check_loss
from nearfar.errors import CheckpointError, NearfarError
from nearfar.models import Embedder
from nearfar.models.saved import fit_weights
from nearfar.train.allocator import keep_freed_memory
from nearfar.train.checkpoint import no_space_in_one_sentence, save_checkpoint
from nearfar.train.environment import arithmetic
from nearfar.train.folder import BEST, LAST, MODEL, begin, open_folder
from nearfar.train.journal import Journal
from nearfar.train.live import Live, duration
from nearfar.train.optimizer import learning_rate, rest, set_learning_rates
from nearfar.train.plan import Plan, plan
from nearfar.train.precision import Numerics, choose_device
from nearfar.train.randomness import derive_seed, own_randomness, seed_everything
from nearfar.train.setup import Parts, assemble, fingerprint, tables_of
from nearfar.train.stopping import RunInterrupted, StopRequest
from nearfar.train.tracking import Tracker
from nearfar.train.trial import measured_numerics
from nearfar.train.validate import validate
from nearfar.train.watch import StepNumbers, Watch, diverged, numbers_of

LINES = 400


@dataclass(frozen=True)
class RunResult:
    """What a run came to.

    Attributes:
        folder: where it lies.
        best_epoch: the epoch whose weights are in ``model/``, counted from 1; 0 after a dry run.
        validation: ``recall_at_1`` and ``map_at_r`` of that epoch on the held-out classes, if there are any.
        seconds: spent training, over all resumes.
        plan: what a dry run found.
    """

    folder: Path
    best_epoch: int
    validation: dict[str, float]
    seconds: float
    plan: Plan | None = None


@dataclass
class Progress:
    """Where a run stands: all of its state that no module holds."""

    epoch: int = 0
    position: int = 0
    step: int = 0
    seconds: float = 0.0
    best_epoch: int = 0
    best: dict[str, float] = field(default_factory=dict)
    finished: bool = False


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
    check_loss(config.loss)
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise NearfarError("training in several processes is not possible yet; start one, without torchrun.")
    folder = Path(folder)
    device = choose_device(config.train.device)
    if device.type == "cpu":
        keep_freed_memory()
    with own_randomness(), _repeatable(), no_space_in_one_sentence(folder):
        if dry_run:
            found = plan(config, assemble(config, tables_of(config), device, embedder))
            Live(0, 0, progress).say(str(found))
            return RunResult(folder, 0, {}, 0.0, found)
        state = open_folder(folder, config, resume)
        if state is not None and state["progress"]["finished"]:
            done = Progress(**state["progress"])
            length = f"{config.train.steps} steps" if config.train.steps else f"{config.train.epochs} epochs"
            Live(0, 0, progress).say(f"{folder} is finished: all {length} are done.")
            return RunResult(folder, done.best_epoch, done.best, done.seconds)
        parts = assemble(config, tables_of(config), device, embedder)
        begin(folder, config, parts.images.unreadable)
        journal = Journal(folder, config, trackers=trackers, shown=progress)
        return _Run(config, folder, parts, state, journal).train(command)


class _Run:
    """One run: its parts, where it stands, and whom it tells."""

    def __init__(
        self, config: Config, folder: Path, parts: Parts, state: dict[str, Any] | None, journal: Journal, /
    ) -> None:
        self.config, self.folder, self.parts, self.state, self.journal = config, folder, parts, state, journal
        self.at = Progress()
        self.data = fingerprint(parts.images.table)
        self.watch = Watch(parts.loss.settings, journal.warn)
        self.numerics = measured_numerics(config, parts) if state is None else Numerics(**state["numerics"])
        if state is not None:
            self._load(state)
        parts.embedder.to(memory_format=self.numerics.layout())
        self.steps = parts.steps
        self.every = min(50, max(1, self.steps // LINES))
        self.finite = torch.ones((), dtype=torch.bool, device=parts.device)
        self.saved = time.monotonic()
        self.began = self.saved - self.at.seconds
        self.lap = (self.at.step, self.saved)

    def train(self, command: str) -> RunResult:
        """Run the epochs that are left; the last one may end early, at the last step."""
        log_size = 0 if self.state is None else self.state["log_size"]
        with self.journal.open(self.steps, self.at.step, log_size), StopRequest() as self.stop:
            if self.state is None:
                self.journal.begin(self.parts, self.numerics, command, self.steps)
            else:
                self.journal.go_on(self.parts, self.state["arithmetic"])
            while self.at.step < self.steps:
                self._epoch()
                self._end_of_epoch(command)
            model = self.folder / MODEL
            for tracker in self.journal.trackers:
                tracker.file(model)
            self.journal.live.say(f"finished in {duration(self.at.seconds)}; the model is in {model}")
        return RunResult(self.folder, self.at.best_epoch, dict(self.at.best), self.at.seconds)

    def _epoch(self) -> None:
        parts, sampler = self.parts, self.parts.sampler
        sampler.load_state_dict(
            {**sampler.state_dict(), "epoch": self.at.epoch, "position": self.at.position}
        )
        parts.embedder.train()
        parts.loss.train()
        rest(parts.optimizer, parts.embedder.backbone, self.at.step < parts.head_only_steps)
        for images, labels, _ in parts.images.batches(sampler):
            self._step(images, labels)
            if self.at.position == len(sampler) or self.at.step == self.steps:
                return
            if self.stop.requested:
                self._save()
                self._interrupt()
            if time.monotonic() - self.saved > 60 * self.config.train.checkpoint_minutes:
                self._save()

    def _step(self, images: UInt8[Tensor, "n 3 r r"], labels: Int64[Tensor, " n"]) -> None:
        parts, at = self.parts, self.at
        place = (self.config.train.seed, at.epoch, at.position)
        seed_everything(*place)
        generator = torch.Generator().manual_seed(derive_seed(*place, 1))
        set_learning_rates(parts.optimizer, parts.schedule, at.step)
        labels = labels.to(parts.device, non_blocking=True)
        pixels = parts.augment(images.to(parts.device, non_blocking=True), generator)
        with self.numerics.autocast(parts.device):
            embeddings = parts.embedder(pixels.contiguous(memory_format=self.numerics.layout()))
        loss = parts.loss(embeddings.float(), labels)
        parts.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = self._clip()
        parts.optimizer.step()
        at.position += 1
        at.step = self.journal.step = at.step + 1
        self.finite &= torch.isfinite(loss.detach()) & torch.isfinite(norm)
        if at.step % self.every == 0 or at.step == self.steps:
            numbers = StepNumbers(*numbers_of(loss, embeddings, parts.loss, norm).tolist())
            self._report(numbers, len(labels))
            self.watch.look(at.step, numbers)
        elif parts.device.type == "cpu":  # elsewhere, to look is to wait for the device
            self._check_finite()

    def _clip(self) -> Tensor:
        groups = self.parts.optimizer.param_groups
        weights = [p for group in groups for p in group["params"] if p.grad is not None]
        if self.config.optimizer.clip_norm > 0:
            return clip_grad_norm_(weights, self.config.optimizer.clip_norm)
        return get_total_norm([p.grad for p in weights if p.grad is not None])

    def _report(self, numbers: StepNumbers, batch: int) -> None:
        now = time.monotonic()
        before, then = self.lap
        self.lap = (self.at.step, now)
        self.journal.numbers(
            {
                "step": self.at.step,
                "epoch": self.at.epoch,
                **asdict(numbers),
                "lr": learning_rate(self.parts.optimizer, "backbone"),
                "head_lr": learning_rate(self.parts.optimizer, "head"),
                "images_per_second": (self.at.step - before) * batch / max(now - then, 1e-9),
                "seconds": now - self.began,
            }
        )

    def _end_of_epoch(self, command: str) -> None:
        at, epoch, last = self.at, self.at.epoch, self.at.step == self.steps
        images = self.parts.validation_images
        if images is None:
            if last:
                self._keep_best(epoch, {}, command)
        elif last or (epoch + 1) % self.config.train.validate_every == 0:
            found = validate(self.parts.embedder, images, self.parts.device, self.numerics.layout())
            best = not at.best or found.map_at_r > at.best["map_at_r"]
            self.journal.validation(epoch, found, best)
            self.watch.look_at_ties(found.tied)
            if best:
                metrics = {"recall_at_1": found.recall_at_1, "map_at_r": found.map_at_r}
                self._keep_best(epoch, metrics, command)
            self.lap = (at.step, time.monotonic())
        at.epoch, at.position, at.finished = epoch + 1, 0, last
        if last:
            seconds = time.monotonic() - self.began
            result = {"best_epoch": at.best_epoch, "validation": dict(at.best), "seconds": seconds}
            self.journal.tell("end", **result)
        self._save()
        if self.stop.requested and not last:
            self._interrupt()

    def _keep_best(self, epoch: int, metrics: dict[str, float], command: str) -> None:
        """Write ``best/`` and ``model/`` before ``last/``: a crash in between repeats the epoch."""
        self._check_finite()
        self.at.best_epoch, self.at.best = epoch + 1, metrics
        embedder, loss = self.parts.embedder, self.parts.loss
        weights = {"embedder": embedder.state_dict(), "loss": loss.state_dict()}
        save_checkpoint(self.folder / BEST, {**weights, "epoch": epoch, "metrics": metrics})
        table = self.parts.tables.train
        classes = [table.classes[label] for label in sorted(set(table.label.tolist()))]
        embedder.save(self.folder / MODEL, classes=classes, metrics=metrics, command=command)

    def _save(self) -> None:
        self._check_finite()
        self.at.seconds = time.monotonic() - self.began
        parts = self.parts
        state = {
            "config": self.config.to_dict(),
            "data": self.data,
            "arithmetic": arithmetic(parts.device),
            "numerics": asdict(self.numerics),
            "embedder": parts.embedder.state_dict(),
            "loss": parts.loss.state_dict(),
            "optimizer": parts.optimizer.state_dict(),
            "watch": self.watch.state_dict(),
            "progress": asdict(self.at),
            "log_size": self.journal.log.size(),
        }
        save_checkpoint(self.folder / LAST, state)
        self.saved = time.monotonic()

    def _load(self, state: dict[str, Any]) -> None:
        if state["data"] != self.data:
            raise CheckpointError(
                f"the training images of {self.config.data.source} are not those that {self.folder} was "
                "begun with; restore them or begin another run."
            )
        fit_weights(self.parts.embedder, state["embedder"], self.folder / LAST)
        fit_weights(self.parts.loss, state["loss"], self.folder / LAST)
        self.parts.optimizer.load_state_dict(state["optimizer"])
        self.watch.load_state_dict(state["watch"])
        self.at = Progress(**state["progress"])

    def _interrupt(self) -> None:
        raise RunInterrupted(
            f"stopped after step {self.at.step} of {self.steps}, with a checkpoint in {self.folder / LAST}; "
            f"go on with: nearfar train {self.folder} --resume"
        )

    def _check_finite(self) -> None:
        if not self.finite:
            raise diverged("loss or its gradient", self.at.step)


@contextmanager
def _repeatable() -> Iterator[None]:
    """Let cuDNN choose kernels that give the same sums each time."""
    before = torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark
    torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    try:
        yield
    finally:
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = before
