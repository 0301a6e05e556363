"""The training loop: steps, validation, checkpoints; stopped at any moment, it goes on bit for bit."""

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn.utils import clip_grad_norm_, get_total_norm

from nearfar.config import Config
from nearfar.config.loss_settings import check_settings
from nearfar.data.samplers import PKSampler, Share, own_part
from nearfar.distributed import (
    any_rank,
    by_rank_0,
    gather_rows,
    joined,
    of_rank_0,
    rank,
    wait_for_all,
    world_size,
)
from nearfar.errors import NearfarError
from nearfar.models import Embedder
from nearfar.train.allocator import keep_freed_memory
from nearfar.train.checkpoint import no_space_in_one_sentence, save_checkpoint
from nearfar.train.folder import BEST, LAST, MODEL, begin, open_folder
from nearfar.train.further import further_numbers, told_by
from nearfar.train.gradient import gradient
from nearfar.train.journal import Journal
from nearfar.train.live import Live, duration
from nearfar.train.mine import is_due, mine
from nearfar.train.optimizer import learning_rate, rest, set_learning_rates
from nearfar.train.plan import Plan, plan
from nearfar.train.precision import Numerics, choose_device, repeatable
from nearfar.train.randomness import derive_seed, own_randomness, seed_everything
from nearfar.train.ranks import (
    Exchanged,
    batch_norm_warning,
    check_batch,
    own_device,
    own_place,
    same_numbers,
)
from nearfar.train.setup import Parts, assemble, fingerprint, tables_of
from nearfar.train.state import Progress, state_of, take_up
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
        return _Run(config, folder, parts, state, journal).train(command)


class _Run:
    """One run: its parts, where it stands, and whom it tells."""

    def __init__(
        self, config: Config, folder: Path, parts: Parts, state: dict[str, Any] | None, journal: Journal, /
    ) -> None:
        self.config, self.folder, self.parts, self.state, self.journal = config, folder, parts, state, journal
        self.at = Progress()
        self.data = fingerprint(parts.images.table)
        self.watch = Watch(told_by(parts.loss).settings, journal.warn)
        if state is None:
            self.numerics = of_rank_0(measured_numerics(config, parts))
        else:
            self.numerics = Numerics(**state["numerics"])
            self.at = take_up(config, parts, state, data=self.data, watch=self.watch, folder=folder)
        self.exchanged = Exchanged(parts.embedder)
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
            if (warning := batch_norm_warning(self.parts.embedder)) is not None:
                self.journal.warn(warning)
            while self.at.step < self.steps:
                self._epoch()
                self._end_of_epoch(command)
            model = self.folder / MODEL
            for tracker in self.journal.trackers:
                tracker.file(model)
            self.journal.live.say(f"finished in {duration(self.at.seconds)}; the model is in {model}")
        return RunResult(self.folder, self.at.best_epoch, dict(self.at.best), self.at.seconds)

    def _epoch(self) -> None:
        ended = False
        while not ended:
            ended = self._some_steps()
            if is_due(self.parts, self.config.offline, self.at.step):
                mined = mine(self.parts, self.config.offline, self.at.step, self.numerics.layout())
                self.journal.mining(mined)

    def _some_steps(self) -> bool:
        """Train until the epoch ends or mining is due; return whether the epoch ends."""
        parts, sampler, at = self.parts, self.parts.sampler, self.at
        sampler.load_state_dict({**sampler.state_dict(), "epoch": at.epoch, "position": at.position})
        parts.embedder.train()
        parts.loss.train()
        rest(parts.optimizer, parts.embedder.backbone, at.step < parts.head_only_steps)
        share = Share(sampler)
        for images, labels, ids in parts.images.batches(share):
            self._step(images, labels, ids, len(share.take()))
            if at.position == len(sampler) or at.step == self.steps:
                return True
            if is_due(parts, self.config.offline, at.step):
                return False
            late = time.monotonic() - self.saved > 60 * self.config.train.checkpoint_minutes
            stop, due = any_rank(self.stop.requested, late and rank() == 0)
            if stop or due:
                self._save()
            if stop:
                self._interrupt()
        return True

    def _step(
        self,
        images: UInt8[Tensor, "n 3 r r"],
        labels: Int64[Tensor, " n"],
        ids: Int64[Tensor, " n"],
        batch: int,
    ) -> None:
        """Train on this rank's rows of a batch of ``batch`` images."""
        parts, at = self.parts, self.at
        place, resting = (self.config.train.seed, at.epoch, at.position), at.step < parts.head_only_steps
        seed_everything(*place, *own_place())
        generator = torch.Generator().manual_seed(derive_seed(*place, 1))
        set_learning_rates(parts.optimizer, parts.schedule, at.step)
        telling = (at.step + 1) % self.every == 0 or at.step + 1 == self.steps
        parts.optimizer.zero_grad(set_to_none=True)
        done = gradient(
            parts,
            self.exchanged.network(resting=resting),
            self.numerics,
            images,
            labels,
            ids,
            drawn=parts.augment.draw(batch, generator)[own_part(batch)],
            place=place,
            chunk=self.config.batch.chunk,
            telling=telling,
        )
        self.exchanged.exchange(parts.loss, resting=resting)
        loss, embeddings = done.value, done.embeddings
        norm = self._clip()
        parts.optimizer.step()
        if telling or not isinstance(parts.sampler, PKSampler):
            ids, embeddings = gather_rows(ids), gather_rows(embeddings.detach())
        parts.sampler.update(ids, embeddings)
        at.position += 1
        at.step = self.journal.step = at.step + 1
        self.finite &= torch.isfinite(loss.detach()) & torch.isfinite(norm)
        if telling:
            found = numbers_of(loss, embeddings, told_by(parts.loss), norm)
            numbers = StepNumbers(*same_numbers(found).tolist())
            more = done.more | further_numbers(parts.loss, parts.memory)
            self._report(numbers, more, batch)
            self.watch.look(at.step, numbers)
            if "memory_drift" in more:
                self.watch.look_at_memory(more["memory_drift"])
        elif parts.device.type == "cpu":  # elsewhere, to look is to wait for the device
            self._check_finite()

    def _clip(self) -> Tensor:
        groups = self.parts.optimizer.param_groups
        weights = [p for group in groups for p in group["params"] if p.grad is not None]
        if self.config.optimizer.clip_norm > 0:
            return clip_grad_norm_(weights, self.config.optimizer.clip_norm)
        return get_total_norm([p.grad for p in weights if p.grad is not None])

    def _report(self, numbers: StepNumbers, more: dict[str, float], batch: int) -> None:
        now = time.monotonic()
        before, then = self.lap
        self.lap = (self.at.step, now)
        self.journal.numbers(
            {
                "step": self.at.step,
                "epoch": self.at.epoch,
                **asdict(numbers),
                **more,
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
        (stop,) = any_rank(self.stop.requested)
        if stop and not last:
            self._interrupt()

    def _keep_best(self, epoch: int, metrics: dict[str, float], command: str) -> None:
        """Write ``best/`` and ``model/`` before ``last/``: a crash in between repeats the epoch."""
        self._check_finite()
        self.at.best_epoch, self.at.best = epoch + 1, metrics
        embedder, loss = self.parts.embedder, self.parts.loss
        if rank() > 0:
            return
        weights = {"embedder": embedder.state_dict(), "loss": loss.state_dict()}
        save_checkpoint(self.folder / BEST, {**weights, "epoch": epoch, "metrics": metrics})
        table = self.parts.tables.train
        classes = [table.classes[label] for label in sorted(set(table.label.tolist()))]
        embedder.save(self.folder / MODEL, classes=classes, metrics=metrics, command=command)

    def _save(self) -> None:
        self._check_finite()
        self.at.seconds = time.monotonic() - self.began
        state = state_of(
            self.config,
            self.parts,
            data=self.data,
            numerics=self.numerics,
            watch=self.watch,
            at=self.at,
            log_size=self.journal.size(),
        )
        if rank() == 0:
            save_checkpoint(self.folder / LAST, state)
        self.saved = time.monotonic()

    def _interrupt(self) -> None:
        wait_for_all()  # torchrun ends all as soon as one has ended, and the first may still be writing
        raise RunInterrupted(
            f"stopped after step {self.at.step} of {self.steps}, with a checkpoint in {self.folder / LAST}; "
            f"go on with: nearfar train {self.folder} --resume"
        )

    def _check_finite(self) -> None:
        if not self.finite:
            raise diverged("loss or its gradient", self.at.step)
