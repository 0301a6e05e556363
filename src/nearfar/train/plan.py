"""The dry run: one batch through everything, and what a whole run would cost."""

import math
import time
from contextlib import suppress
from dataclasses import dataclass, field

import torch

from nearfar.config import Config
from nearfar.data.decode import UnreadableImage, decode
from nearfar.train.live import duration
from nearfar.train.network import network_for
from nearfar.train.passes import Passes, probe_size, shown, weigh
from nearfar.train.precision import Numerics, choose_numerics
from nearfar.train.randomness import derive_seed
from nearfar.train.setup import Parts, weight_count

PROBES = 8
"""Images that are read to learn how long that takes."""
REPORT = 10.0
"""Seconds for the figures and the map of a report, whatever is in it."""


@dataclass(frozen=True)
class Plan:
    """What a run would be; printing it gives a page to read.

    Attributes:
        train, validation, test: images and classes of each part.
        batch: shape of the images that the network sees.
        embedding: shape of what comes out.
        loss: the loss with all its settings.
        loss_value: of the first batch.
        weights: number of weights.
        memory: bytes of weights, gradients, optimiser, batch (its images as bytes, its embeddings) and
            activations (of a chunk).
        steps_per_epoch: length of an epoch.
        steps, epochs: length of the run; the last epoch may be cut.
        step_seconds: of one training step without reading images.
        numerics: number format and why.
        device: where it runs.
        passes: what the batch costs in one pass and in two.
        beside: seconds beside the steps: to read the images, to validate, and for the report.
    """

    train: tuple[int, int]
    validation: tuple[int, int] | None
    test: tuple[int, int]
    batch: tuple[int, ...]
    embedding: tuple[int, ...]
    loss: str
    loss_value: float
    weights: int
    memory: dict[str, int]
    steps_per_epoch: int
    steps: int
    epochs: int
    step_seconds: float
    numerics: Numerics
    device: str
    passes: Passes
    beside: dict[str, float] = field(default_factory=dict)

    @property
    def seconds(self) -> float:
        """Of the whole run, the report included."""
        return self.step_seconds * self.steps + sum(self.beside.values())

    def __str__(self) -> str:
        def part(name: str, counts: tuple[int, int]) -> str:
            return f"{name:<12}{counts[0]:,} images of {counts[1]:,} classes"

        epoch, run = (duration(self.step_seconds * steps) for steps in (self.steps_per_epoch, self.steps))
        memory = ", ".join(f"{name} {shown(size)}" for name, size in self.memory.items())
        return "\n".join(
            [
                part("train", self.train),
                *([part("validation", self.validation)] if self.validation else []),
                part("test", self.test),
                f"batch       {list(self.batch)} -> embeddings {list(self.embedding)}",
                f"loss        {self.loss} = {self.loss_value:.4f} on the first batch",
                f"weights     {self.weights:,}",
                f"memory      {shown(sum(self.memory.values()))}: {memory}",
                f"device      {self.device}, {self.numerics.precision} ({self.numerics.reason})",
                *self.passes.lines(),
                f"time        {self.step_seconds:.3f} s a step, {epoch} an epoch of {self.steps_per_epoch} "
                f"steps, {run} for {self.steps:,} steps ({self.epochs} epochs)",
                f"            about {duration(self.seconds)} with "
                + ", ".join(f"{duration(seconds)} for {what}" for what, seconds in self.beside.items()),
                "nothing was written.",
            ]
        )


def plan(config: Config, parts: Parts) -> Plan:
    """Send the first batch through data, augmentation, network and loss, and copies of both backward.

    No more than `probe_size` images are in the network at a time: one may ask for a batch that does not fit.
    """
    images, labels, _ = next(iter(parts.images.batches(parts.sampler)))
    n, chunk, dim = len(labels), config.batch.chunk, parts.embedder.dim
    generator = torch.Generator().manual_seed(derive_seed(config.train.seed, 0, 0, 1))
    drawn = parts.augment.draw(n, generator)
    labels = labels.to(parts.device)
    probe = probe_size(parts.embedder.preprocess.size, n, chunk)

    numerics = choose_numerics(config.train.precision, parts.device, parts.embedder)
    parts.embedder.eval()
    network = network_for(parts.embedder, parts.loss)
    embeddings, first = [], None
    with torch.no_grad():
        for some, draws in zip(images.split(probe), drawn.split(probe), strict=True):
            pixels = parts.augment.apply(some.to(parts.device), draws)
            first = pixels if first is None else first
            embeddings.append(network(pixels))
        value = parts.loss(torch.cat(embeddings), labels)
    assert first is not None
    learned = [p for group in parts.optimizer.param_groups for p in group["params"]]
    size = sum(p.numel() * p.element_size() for p in learned)
    kept = {
        "weights": sum(p.numel() * p.element_size() for p in parts.embedder.parameters()),
        "gradients": size,
        "optimiser": size * (2 if config.optimizer.name == "adamw" else 1),
        "batch": images.nbytes + 2 * 4 * n * dim,  # embeddings and their gradient
    }
    passes = weigh(
        parts.embedder,
        parts.loss,
        parts.memory,
        first,
        labels,
        chunk=chunk,
        always=sum(kept.values()),
        numerics=numerics,
    )
    validation = parts.tables.validation
    return Plan(
        train=(len(parts.images), parts.images.table.class_count()),
        validation=None if validation is None else (len(validation), validation.class_count()),
        test=(len(parts.tables.test), parts.tables.test.class_count()),
        batch=(n, *first.shape[1:]),
        embedding=(n, dim),
        loss=str(parts.loss),
        loss_value=float(value),
        weights=weight_count([parts.embedder]),
        memory={**kept, "activations": passes.bytes_with(chunk) - passes.always},
        steps_per_epoch=len(parts.sampler),
        steps=parts.steps,
        epochs=math.ceil(parts.steps / len(parts.sampler)),
        step_seconds=passes.two_passes if passes.chunk else passes.one_pass,
        numerics=numerics,
        device=str(parts.device),
        passes=passes,
        beside=_beside(config, parts, passes.second / n),
    )


def _beside(config: Config, parts: Parts, forward: float) -> dict[str, float]:
    """Reckon what a run takes beside its steps from a few images that are read.

    Args:
        forward: seconds in which the network embeds an image.
    """
    tables, epochs = parts.tables, math.ceil(parts.steps / len(parts.sampler))
    small, whole = _seconds_to_read(parts)
    validation = 0 if tables.validation is None else len(tables.validation)
    train, test = len(tables.train), len(tables.test)
    checks = math.ceil(epochs / config.train.validate_every)
    # The report reads the test images for their pixels and two networks, and the training ones for copies.
    report = (train + 2 * test) * whole + 2 * test * (small + forward) + REPORT
    return {
        "reading": (train + validation) * small,
        "validation": validation * checks * forward,
        "the report": report,
    }


def _seconds_to_read(parts: Parts) -> tuple[float, float]:
    """Return the seconds for an image as the network needs it, and for one in all its pixels."""
    paths = parts.tables.test.path[:: max(1, len(parts.tables.test) // PROBES)][:PROBES].tolist()
    times = []
    for read in (parts.embedder.preprocess.load, decode):
        began = time.perf_counter()
        for path in paths:
            with suppress(UnreadableImage):  # told when the run comes to it
                read(path)
        times.append((time.perf_counter() - began) / len(paths))
    return times[0], times[1]
