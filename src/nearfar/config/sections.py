"""The sections of a configuration, each key with its default and its limits."""

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    PlainSerializer,
    field_validator,
    model_validator,
)

from nearfar.errors import ConfigError, shortened


def _as_tuple(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _byte_text(size: int) -> str:
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return f"{size}B"


Range = Annotated[tuple[float, float], BeforeValidator(_as_tuple)]
Bytes = Annotated[ByteSize, PlainSerializer(_byte_text)]


class Section(BaseModel):
    """One table of the file: frozen, typed strictly, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Data(Section):
    """Where the images come from and which classes are kept for the test."""

    source: str = "objects"
    """A folder of class folders, a CSV or Parquet table, or the name of a pack."""
    root: str | None = None
    """Folder that holds the files of a named data set."""
    classes: Literal["top", "leaf"] = "top"
    """Of a folder: each folder at the top is a class, or each folder that holds images itself."""
    unlabelled: int | str | None = None
    """The label of images without one, such as -1; they are left out."""
    split_seed: int = 0
    """Draws the test classes where the source has no `split` column."""
    skip_unreadable: bool = False
    """Leave broken and missing images out (they are logged) instead of stopping."""
    workers: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    memory_limit: Bytes = ByteSize(2**30)
    """Decoded images are kept in memory when they fit: "2GiB", "500MB" or a number of bytes."""


class Augment(Section):
    """Random changes of the training images. Angles in degrees, the rest as shares."""

    scale: Range = (0.4, 1.0)
    """Share of the image's area that the crop keeps."""
    ratio: Range = (0.75, 4 / 3)
    flip: bool | Literal["auto"] = "auto"
    """Mirror half of the images; "auto" asks the pack, since a mirrored letter is another sign."""
    rotate: float = Field(0.0, ge=0, le=180)
    translate: float = Field(0.0, ge=0, le=1)
    brightness: float = Field(0.2, ge=0, le=1)
    contrast: float = Field(0.2, ge=0, le=1)
    padding: Literal["border", "reflection"] = "border"
    """What a turn or a shift finds outside the image."""
    saturation: float = Field(0.2, ge=0, le=1)
    gray: float = Field(0.0, ge=0, le=1)
    """Share of the images turned gray."""
    blur: float = Field(0.0, ge=0, le=1)
    """Share of the images blurred a little."""
    erase: float = Field(0.0, ge=0, le=1)
    """Share of the images with a rectangle blanked out."""

    @field_validator("scale", "ratio")
    @classmethod
    def _ordered(cls, value: tuple[float, float], info: Any) -> tuple[float, float]:
        low, high = value
        if not 0 < low <= high or (info.field_name == "scale" and high > 1):
            limits = "0 < low <= high <= 1" if info.field_name == "scale" else "0 < low <= high"
            raise ConfigError(
                f"augment.{info.field_name} must be [low, high] with {limits}; got [{low}, {high}]."
            )
        return value


class Model(Section):
    """Backbone, pooling and head of the embedder."""

    backbone: str = "resnet18"
    dim: int = Field(128, ge=1)
    pooling: Literal["avg", "max", "avg+max", "gem"] = "avg"
    head: Literal["linear", "none"] = "linear"
    layer_norm: bool = False
    pretrained: bool = True
    freeze_batch_norm: bool = False
    size: Annotated[int, Field(ge=8)] | None = None
    """Side of the square that the network sees; left out, the backbone's own."""
    fit: Literal["crop", "squash", "pad"] | None = None
    """How a picture becomes that square: cut, squashed or padded; left out, as the backbone has it."""


class OneLoss(Section):
    """Name of a loss, and every setting that its signature has."""

    model_config = ConfigDict(extra="allow")

    mining: str | dict[str, Any] | None = None
    similarity: Literal["cosine", "dot", "euclidean", "squared_euclidean"] = "cosine"
    reduction: Literal["mean", "mean_valid", "mean_terms", "mean_active", "tilted", "sum"] | None = None
    tilt: float = 1.0
    """Of the reduction "tilted": above 0 for more weight on hard samples."""
    sample: float = Field(1.0, gt=0, le=1)
    """Share of the classes that a step compares with, for a loss with proxies."""
    sharded: bool = False
    """Share the classes of a loss with proxies out over the ranks, instead of having all on each."""
    class_weights: Literal["even", "balanced"] = "even"
    """"balanced" lets every class count the same, however many images it has."""

    @property
    def settings(self) -> dict[str, Any]:
        """The settings of this loss alone: ``beta``, ``margin`` and the like."""
        return dict(self.model_extra or {})


class AddedLoss(OneLoss):
    """A loss that is added to another."""

    name: str
    weight: float = 1.0


class Loss(OneLoss):
    """The loss, and others added to it."""

    name: str = "multi_similarity"
    add: Annotated[tuple[AddedLoss, ...], BeforeValidator(_as_tuple)] = ()
    """Further losses, each a table with its name, weight and settings."""


class Memory(Section):
    """Embeddings of past steps as further candidates."""

    size: int = Field(0, ge=0)
    """How many embeddings are kept; 0 for no memory."""
    start_after: int = Field(0, ge=0)
    """Steps at the beginning without memory, while embeddings still change fast."""
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"
    """What stored embeddings are rounded to."""
    device: Literal["auto", "cpu"] = "auto"
    """Where they are held: with the network, or in the main memory."""
    combine: Literal["together", "sum"] = "together"
    """Batch and memory as one set of candidates, or the sum of a loss of each."""
    weight: float = Field(1.0, ge=0)
    """Of the memory's loss in the sum."""
    sharded: bool = False
    """Share the embeddings out over the ranks of torchrun, instead of having all on each."""


class Batch(Section):
    """How many classes, and images of each, a batch holds."""

    classes_per_batch: int = 32
    images_per_class: int = 4
    sampler: str | dict[str, Any] = "pk"
    """How classes are drawn: a name, or a table of a name and its settings."""
    chunk: int = Field(0, ge=0)
    """Images that the network sees at a time: two passes, the memory of a chunk, the gradient of the batch. 0
    for one pass."""

    @model_validator(mode="after")
    def _has_pairs(self) -> "Batch":
        if self.images_per_class < 2:
            raise ConfigError(
                f"batch.images_per_class = {self.images_per_class} gives no positive pair; "
                "set it to 2 or more."
            )
        if self.classes_per_batch < 2:
            raise ConfigError(
                f"batch.classes_per_batch = {self.classes_per_batch} gives no negative pair; "
                "set it to 2 or more."
            )
        return self


class Offline(Section):
    """Mining for `batch.sampler = "offline"`: what batches are drawn around."""

    every: int = Field(200, ge=1)
    """Steps from one mining, with the newest weights, to the next."""
    most: int = Field(5000, ge=4)
    """Training images embedded for it, some of each class."""
    margin: float = Field(0.2, ge=0)
    """Similarity by which a semi-hard negative falls short of the farthest positive."""
    guard: float = Field(0.95, gt=0, le=1)
    """A negative nearer than this share of all positive pairs is taken for a wrong label and left out."""


class Optimizer(Section):
    """Steps taken down the gradient."""

    name: Literal["adamw", "sgd"] = "adamw"
    lr: float = Field(1e-4, ge=0)
    """Of the backbone."""
    head_lr: float = Field(1e-3, ge=0)
    loss_lr: float = Field(1e-2, ge=0)
    """Of the weights that a loss has (proxies, a learned margin)."""
    weight_decay: float = Field(1e-4, ge=0)
    """Of weights with two or more axes; biases and norms have none."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd: v = momentum · v + gradient, and weights move by -lr · v. Caffe has lr inside v: the same until
    lr falls, when Caffe's moves fade over some 1 / (1 - momentum) steps and these fall at once."""
    warmup_epochs: float = Field(1.0, ge=0)
    head_only_epochs: int = Field(0, ge=0)
    """Epochs at the start in which the backbone rests and only the head and the loss learn."""
    schedule: Literal["cosine", "step", "multistep", "exp", "inv", "poly", "constant"] = "cosine"
    """Factor of the rates at step t of T: "step" gamma^⌊t / step_size⌋, "multistep" gamma^(values until t),
    "exp" gamma^t, "inv" (1 + gamma · t)^(-power), "poly" (1 - t / T)^power; named as in Caffe."""
    step_epochs: int = Field(10, ge=1)
    """Epochs between the falls of "step"."""
    step_size: Annotated[int, Field(ge=1)] | None = None
    """Steps between the falls of "step"; left out, ``step_epochs`` counts."""
    step_values: Annotated[tuple[int, ...], BeforeValidator(_as_tuple)] | None = None
    """Steps at which "multistep" falls."""
    gamma: float = Field(0.1, gt=0, le=1)
    """Of "step", "multistep", "exp" and "inv"."""
    power: Annotated[float, Field(ge=0)] | None = None
    """Of "inv" and "poly"; left out, 1."""
    clip_norm: float = Field(0.0, ge=0)
    """Largest norm of the gradient; 0 leaves it as it is."""

    @model_validator(mode="after")
    def _falls(self) -> "Optimizer":
        owners = {"step_size": ("step",), "step_values": ("multistep",), "power": ("inv", "poly")}
        for key, schedules in owners.items():
            if getattr(self, key) is not None and self.schedule not in schedules:
                raise ConfigError(
                    f"optimizer.{key} is for schedule {' or '.join(map(repr, schedules))}, not for "
                    f"{self.schedule!r}; leave it out or set optimizer.schedule."
                )
        if self.schedule == "multistep":
            values = self.step_values or ()
            if not values or values[0] < 1 or any(b <= a for a, b in pairwise(values)):
                raise ConfigError(
                    "optimizer.step_values must be the steps at which 'multistep' falls, ascending, such as "
                    f"[1000, 2000]; got {shortened(list(values))}."
                )
        return self


class Train(Section):
    """Length of the run, validation, number format, seed."""

    epochs: int = Field(20, ge=1)
    steps: Annotated[int, Field(ge=1)] | None = None
    """Length in steps, of one batch each; given, ``epochs`` does not count and the last epoch may be cut."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    validate_on: Literal["classes", "none"] = "classes"
    validation_fraction: float = Field(0.2, gt=0, lt=1)
    """Share of the training classes held out; the test classes are never used."""
    validate_every: int = Field(1, ge=1)
    seed: int = Field(1, ge=0)
    checkpoint_minutes: float = Field(10.0, gt=0)
    """A checkpoint is written after each epoch, and this often within one."""
    device: str = "auto"

    @field_validator("device")
    @classmethod
    def _known(cls, value: str) -> str:
        kind, _, number = value.partition(":")
        if kind not in ("auto", "cpu", "cuda", "mps") or (number and not number.isdecimal()):
            raise ConfigError(
                f"train.device must be 'auto', 'cpu', 'cuda', 'cuda:1' or 'mps'; got {shortened(value)}."
            )
        return value
