"""The training loop: steps, validation, checkpoints; stopped at any moment, it goes on bit for bit."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor
from torch.nn.utils import clip_grads_with_norm_

from nearfar.config import Config
from nearfar.data.fingerprint import content_digests
from nearfar.data.samplers import PKSampler, Share, own_part
from nearfar.data.workers import loss_in_one_sentence
from nearfar.distributed import any_rank, gather_rows, of_rank_0, rank, wait_for_all
from nearfar.train.checkpoint import save_checkpoint
from nearfar.train.folder import BEST, LAST, MODEL, damage_of_best
from nearfar.train.further import further_numbers, told_by
from nearfar.train.gradient import gradient
from nearfar.train.journal import Journal
from nearfar.train.live import duration
from nearfar.train.mine import is_due, mine
from nearfar.train.network import network_for
from nearfar.train.optimizer import learning_rate, rest, set_learning_rates
from nearfar.train.plan import Plan
from nearfar.train.precision import Numerics, choose_numerics
from nearfar.train.randomness import derive_seed, seed_everything
from nearfar.train.ranks import Exchanged, batch_norm_warning, gradient_norm, own_place, same_numbers
from nearfar.train.setup import Parts, fingerprint
from nearfar.train.state import Progress, state_of, take_up
from nearfar.train.stopping import RunInterrupted, StopRequest
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


class Run:
    """One run: its parts, where it stands, and whom it tells."""

    def __init__(
        self, config: Config, folder: Path, parts: Parts, state: dict[str, Any] | None, journal: Journal, /
    ) -> None:
        self.config, self.folder, self.parts, self.state, self.journal = config, folder, parts, state, journal
        self.at = Progress()
        self.data = fingerprint(parts.images.table)
        self.contents = torch.from_numpy(content_digests(parts.images.table))
        self.watch = Watch(told_by(parts.loss).settings, journal.warn)
        if state is None:
            chosen = choose_numerics(config.train.precision, parts.device, parts.embedder)
            self.numerics = of_rank_0(chosen)  # machines may differ
        else:
            self.numerics = Numerics(**state["numerics"])
            self.at = take_up(
                config, parts, state, data=self.data, contents=self.contents, watch=self.watch, folder=folder
            )
        self.exchanged = Exchanged(parts.embedder, network_for(parts.embedder, parts.loss))
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
        with (
            self.journal.open(self.steps, self.at.step, log_size),
            StopRequest(self.folder, shown=self.journal.shown) as self.stop,
            loss_in_one_sentence(),
        ):
            if self.state is None:
                self.journal.begin(self.parts, self.numerics, command, self.steps)
            else:
                self.journal.go_on(self.parts, self.state["arithmetic"])
                if rank() == 0 and (damage := damage_of_best(self.folder)) is not None:
                    self.journal.warn(damage)
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
            telling=at.step + 1 if telling else None,
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
        norm = gradient_norm(weights, self.parts.loss)
        if self.config.optimizer.clip_norm > 0:
            clip_grads_with_norm_(weights, self.config.optimizer.clip_norm, norm)
        return norm

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
            best = not at.best or found.map_at_r >= at.best["map_at_r"]  # of equals the later
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
        weights = {"embedder": embedder.state_dict(), "loss": loss.state_dict()}  # of all ranks
        if rank() > 0:
            return
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
            contents=self.contents,
            numerics=self.numerics,
            watch=self.watch,
            at=self.at,
            log_size=self.journal.size(),
        )
        if rank() == 0:
            save_checkpoint(self.folder / LAST, state, keep=True)
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
