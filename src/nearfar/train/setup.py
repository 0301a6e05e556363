"""From a configuration to everything that a run needs: tables, images, network, loss, optimiser."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import nn

from nearfar.config import AddedLoss, Config
from nearfar.config import Loss as LossSection
from nearfar.config.loss_settings import named
from nearfar.config.source import read_source
from nearfar.data import Augment, Images, Table, packs, split_by_class, train_and_test
from nearfar.data.fingerprint import fingerprint  # noqa: F401 (its name here is known)
from nearfar.data.samplers import BatchSampler, create_sampler
from nearfar.data.split import tell_few_classes, tell_roles
from nearfar.distributed import rank
from nearfar.errors import ConfigError, DataError
from nearfar.losses import Loss, Sum
from nearfar.losses import create as create_loss
from nearfar.losses.parts.registry import has_proxies
from nearfar.memory import CrossBatchMemory
from nearfar.models import Embedder
from nearfar.train.large_batch import batch_norm_refusal
from nearfar.train.optimizer import create_optimizer, parameter_groups
from nearfar.train.randomness import seed_everything
from nearfar.train.read import read_images
from nearfar.train.room import free_memory
from nearfar.train.schedule import Schedule

log = logging.getLogger("nearfar")


@dataclass(frozen=True)
class Tables:
    """The images of a run, in three parts. They share no class, unless the source says otherwise.

    Attributes:
        train: what is learned from.
        validation: what chooses the best epoch: classes held out of training, or the rows of ``split``
            "validation", whose classes may be known ones; None without validation.
        test: never looked at while training.
    """

    train: Table
    validation: Table | None
    test: Table


@dataclass(frozen=True)
class Parts:
    """What a run works with, and its length in steps. The modules and the optimiser change in place."""

    tables: Tables
    images: Images
    validation_images: Images | None
    sampler: BatchSampler
    augment: Augment
    embedder: Embedder
    loss: Loss | Sum
    memory: CrossBatchMemory | None
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    device: torch.device
    head_only_steps: int
    steps: int


def tables_of(config: Config, *, begins: bool = True) -> Tables:
    """Read the source and part its classes; validation classes come out of the training classes.

    Args:
        config: of the run.
        begins: tell what training should know of its classes; of no use to who only looks at a run.

    Raises:
        DataError: if too few classes are left.
    """
    table = read_source(config.data)
    if begins:
        tell_roles(table)
    train, test = train_and_test(table, seed=config.data.split_seed)
    _check_searchable(test, "test", "the report could show nothing; give the test half classes of two images")
    split = table.columns.get("split")
    validation = None
    if config.train.validate_on != "none":
        if split is not None and (split == "validation").any():
            validation = table.select(split == "validation")
            _check_searchable(
                validation, "validation", "set train.validate_on = 'none' or give it such classes"
            )
        else:
            validation, train = _hold_out(config, train)
    _check_trainable(train)
    if begins and rank() == 0:
        tell_few_classes(train, validation, test)
    return Tables(train, validation, test)


def assemble(config: Config, tables: Tables, device: torch.device, embedder: Embedder | None = None) -> Parts:
    """Make everything, seeded by ``train.seed``.

    Args:
        config: of the run.
        tables: from `tables_of`.
        device: from `choose_device`.
        embedder: trained instead of the one that ``config.model`` describes.
    """
    seed_everything(config.train.seed)
    if embedder is None:
        embedder = Embedder(**config.model.model_dump())
    embedder = embedder.to(device)
    _check_chunks(config, embedder)
    images, validation_images, test = read_images(
        config, tables.train, tables.validation, tables.test, embedder
    )
    loss = make_loss(config, images.table.label, embedder.dim).to(device)
    sampler_name, sampler_settings = named(config.batch.sampler)
    sampler = create_sampler(
        sampler_name,
        images.table.label,
        config.batch.classes_per_batch,
        config.batch.images_per_class,
        config.train.seed,
        columns=images.table.columns,
        **sampler_settings,
    )
    wanted = config.optimizer
    steps = config.train.steps or config.train.epochs * len(sampler)
    head_only_steps = wanted.head_only_epochs * len(sampler)
    if head_only_steps >= steps:
        raise ConfigError(
            f"optimizer.head_only_epochs = {wanted.head_only_epochs} are {head_only_steps} steps and leave "
            f"nothing of train.steps = {steps}; set it lower."
        )
    if config.memory.size > 0 and config.memory.start_after >= steps:
        raise ConfigError(
            f"memory.start_after = {config.memory.start_after} is beyond the run of {steps} steps, so that "
            "its memory is never used; set it lower, or memory.size to 0."
        )
    groups = parameter_groups(embedder.backbone, embedder, loss, wanted, head_only_steps)
    return Parts(
        tables=replace(tables, test=test),
        images=images,
        validation_images=validation_images,
        sampler=sampler,
        augment=Augment(
            embedder.preprocess.size,
            **config.augment.model_dump(exclude={"flip"}),
            flip=flips(config),
        ),
        embedder=embedder,
        loss=loss,
        memory=make_memory(config, loss, embedder.dim, device),
        optimizer=create_optimizer(groups, wanted),
        schedule=Schedule.of(wanted, steps, len(sampler)),
        device=device,
        head_only_steps=head_only_steps,
        steps=steps,
    )


def _check_chunks(config: Config, embedder: Embedder) -> None:
    """Refuse chunks where batch norm would compute something else in them, before anything is read."""
    chunk, batch = config.batch.chunk, config.batch.classes_per_batch * config.batch.images_per_class
    if not 0 < chunk < batch:
        return
    if embedder.backbone_name == "nearfar/small":
        advice = "set model.backbone = 'nearfar/small-group-norm', or batch.chunk = 0."
    elif config.model.pretrained:
        advice = (
            "set model.freeze_batch_norm = true, take a backbone with layer norm such as 'convnext_atto', or "
            "set batch.chunk = 0."
        )
    else:
        advice = (
            "take a backbone with layer norm such as 'convnext_atto', or set batch.chunk = 0; to freeze them "
            "suits pretrained weights only, as a network from nothing would then have no normalisation."
        )
    if (refusal := batch_norm_refusal(embedder.train(), chunk, batch, advice)) is not None:
        raise ConfigError(refusal)


def make_loss(config: Config, labels: np.ndarray, dim: int) -> Loss | Sum:
    """Return the loss that ``config.loss`` describes, for training labels and embeddings of ``dim``."""
    if not config.loss.add:
        return _one_loss(config.loss, labels, dim)
    weighted: dict[str | Loss, float] = {_one_loss(config.loss, labels, dim): 1.0}
    for added in config.loss.add:
        weighted[_one_loss(added, labels, dim)] = added.weight
    return Sum(weighted)


def _one_loss(wanted: LossSection | AddedLoss, labels: np.ndarray, dim: int) -> Loss:
    needed = has_proxies(wanted.name)
    return create_loss(
        wanted.name,
        mining=wanted.mining,
        similarity=wanted.similarity,
        reduction=wanted.reduction,
        classes=torch.from_numpy(labels) if needed else None,
        dim=dim if needed else None,
        sample=wanted.sample,
        sharded=wanted.sharded,
        tilt=wanted.tilt,
        class_weights=_balanced(labels) if wanted.class_weights == "balanced" else None,
        **wanted.settings,
    )


def _balanced(labels: np.ndarray) -> dict[int, float]:
    """Weigh classes by 1 over their number of images, with a mean of 1 over the images."""
    classes, counts = np.unique(labels, return_counts=True)
    weights = len(labels) / (len(classes) * counts)
    return dict(zip(classes.tolist(), weights.tolist(), strict=True))


def make_memory(
    config: Config, loss: Loss | Sum, dim: int = 1, device: torch.device | None = None
) -> CrossBatchMemory | None:
    """Return the memory that ``config.memory`` describes, if any.

    Raises:
        ConfigError: if the loss has no use for it, or the device no room.
    """
    wanted = config.memory
    if wanted.size == 0:
        return None
    losses = loss.losses.values() if isinstance(loss, Sum) else [loss]
    if not any(one.compares_with_the_batch for one in losses if isinstance(one, Loss)):
        raise ConfigError(
            f"memory.size = {wanted.size} has no use with {config.loss.name}, which does not compare "
            "embeddings with each other; set it to 0."
        )
    needed = wanted.size * dim * getattr(torch, wanted.dtype).itemsize
    free = free_memory(torch.device("cpu") if wanted.device == "cpu" or device is None else device)
    if free is not None and needed > free and not wanted.sharded:
        raise ConfigError(
            f"memory.size = {wanted.size} embeddings of {dim} numbers are {needed / 2**30:,.1f} GB, and "
            f"{free / 2**30:,.1f} GB are free; set it lower."
        )
    return CrossBatchMemory(
        wanted.size,
        start_after=wanted.start_after,
        device="cpu" if wanted.device == "cpu" else None,
        dtype=getattr(torch, wanted.dtype),
        combine=wanted.combine,
        weight=wanted.weight,
        sharded=wanted.sharded,
    )


def flips(config: Config) -> bool:
    """Whether images may be mirrored: as said, else as the pack says, else yes."""
    if config.augment.flip != "auto":
        return config.augment.flip
    return packs.describe(config.data.source).flip if config.data.source in packs.names() else True


def weight_count(modules: Sequence[nn.Module]) -> int:
    """Return the number of weights."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


def _check_searchable(table: Table, part: str, advice: str) -> None:
    """Refuse a part in which no image has another of its class to find, before hours are spent on it."""
    if len(table) == 0 or np.unique(table.label, return_counts=True)[1].max() < 2:
        raise DataError(f"no class of the {part} images has two images, so nothing can be found; {advice}.")


def _check_trainable(train: Table) -> None:
    """Refuse classes too few to be told apart, before any picture is read."""
    if train.class_count() < 2:
        raise DataError(
            f"{train.name or train.source} has {train.class_count()} class to learn from; training needs two "
            "or more, and a data set that is halved by class needs four."
        )


def _hold_out(config: Config, train: Table) -> tuple[Table, Table]:
    classes = train.class_count()
    if classes < 4:
        raise DataError(
            f"{train.name or train.source} has {classes} training classes, too few to hold some out for "
            "validation; set train.validate_on = 'none'."
        )
    fraction = max(
        config.train.validation_fraction, 2 / classes
    )  # one class alone has nothing to be mistaken for
    held_out, rest = split_by_class(train, min(fraction, 1 - 2 / classes), config.train.seed)
    _check_searchable(
        held_out, "validation", "set train.validate_on = 'none' or raise train.validation_fraction"
    )
    return held_out, rest
