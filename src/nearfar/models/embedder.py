"""The model: backbone, pooling, head, unit length."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar import __version__
from nearfar.data.preprocess import Preprocess
from nearfar.errors import CheckpointError, ConfigError, DataError
from nearfar.models.backbones import CUSTOM, create_backbone, evaluating
from nearfar.models.description import describe_details, whole
from nearfar.models.heads import HeadName, create_head, in_its_type
from nearfar.models.pictures import batches, check_batch_size, read, several
from nearfar.models.pooling import PoolingName, create_pooling
from nearfar.models.savable import Made, Untouched, check_savable
from nearfar.models.saved import adopt_types, fingerprint, fit_weights, read_model, types_of, write_model
from nearfar.models.vectors import cosines, vectors
from nearfar.printable import quoted
from nearfar.similarity import normalize


class Embedder(nn.Module):
    """Images to unit-length embeddings.

    Args:
        backbone: a name of ``nearfar.models.names()``, or a module that maps images to ``[n, features, h,
            w]`` or ``[n, features]``.
        dim: length of the embeddings; with ``head="none"`` it is that of the features.
        pooling: of maps; a backbone that gives tokens pools them itself.
        head: "linear" projects the pooled features to ``dim``. It is new and random, and PEFT freezes what is
            new: give its ``LoraConfig`` ``modules_to_save=["head"]``.
        layer_norm: normalise the features before the head.
        pretrained: start from pretrained weights; our own backbones have none and start from nothing.
        freeze_batch_norm: keep the running statistics of batch norm as they are; its weights still train.
        size: side of the images; None is the backbone's own.
        preprocess: the whole preprocessing, instead of ``size``.
        fit: how a picture becomes a square, see ``Preprocess``; None is the backbone's own way.

    Attributes:
        dim: length of the embeddings.
        feature_dim: length of the features.
        preprocess: how images are prepared; ``forward`` subtracts its mean and divides by its std.
        details: what the model was saved with: ``classes``, ``metrics``, ``command``.

    Raises:
        ConfigError: if a name is unknown or the parts do not fit.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        backbone: str | nn.Module = "resnet18",
        *,
        dim: int = 128,
        pooling: PoolingName = "avg",
        head: HeadName = "linear",
        layer_norm: bool = False,
        pretrained: bool = True,
        freeze_batch_norm: bool = False,
        size: int | None = None,
        preprocess: Preprocess | None = None,
        fit: Literal["crop", "squash", "pad"] | None = None,
    ) -> None:
        super().__init__()
        dim = whole(dim, "dim")
        size = None if size is None else whole(size, "size")
        found = create_backbone(backbone, pretrained=pretrained, size=size, preprocess=preprocess)
        if pooling != "avg" and not found.spatial:
            create_pooling(pooling)
            raise ConfigError(
                f"backbone '{found.name}' pools by itself; set pooling to 'avg' instead of '{pooling}'."
            )
        self.backbone_name, self.pooling_name, self.head_name = found.name, pooling, head
        self.layer_norm, self.freeze_batch_norm = layer_norm, freeze_batch_norm
        self.preprocess = found.preprocess if fit is None else replace(found.preprocess, fit=fit)
        self.feature_dim = found.features
        self.dim = dim if head == "linear" else found.features
        self.backbone = found.module
        self.pooling = create_pooling(pooling) if found.spatial else nn.Identity()
        self.head = create_head(head, found.features, dim, layer_norm=layer_norm)
        self.details: dict[str, Any] = {}
        for name in ("mean", "std"):
            self.register_buffer(name, self._normalisation(name, None), persistent=False)
        self._made, self._new_head = Made.of(self), Untouched.of(self.head)
        self.train()

    def forward(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Return float32 embeddings of unit length of images in [0, 1].

        Raises:
            DataError: if the images are not float ``[n, 3, h, w]``.
        """
        return normalize(self.project(images))

    def project(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n dim"]:
        """Return float32 embeddings before they are brought to unit length: what comes out of the head.

        Raises:
            DataError: if the images are not float ``[n, 3, h, w]``.
        """
        features = self.features(images)
        # The head is a small share of the work, and bfloat16 would round the embeddings to 8 bits.
        with torch.autocast(features.device.type, enabled=False):
            return self.head(features).float()

    def features(self, images: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n features"]:
        """Return the pooled features of the backbone, float32, before the head.

        Raises:
            DataError: if the images are not float ``[n, 3, h, w]``.
        """
        if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
            raise DataError(
                f"images are {images.dtype} {list(images.shape)}; expected float [n, 3, h, w] with values "
                "in [0, 1], as model.preprocess.center makes them from uint8."
            )
        return self.pooling(in_its_type(self.backbone, (images - self.mean) / self.std)).float()

    def train(self, mode: bool = True) -> "Embedder":
        """Switch between training and evaluation; frozen batch norm stays in evaluation."""
        super().train(mode)
        if mode and any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self._new_head.tell_if_frozen(self.head)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def encode(
        self,
        images: Any,
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
        head: bool = True,
    ) -> Float[Tensor, "n dim"]:
        """Return embeddings on the CPU, float32, of unit length, without gradient; each image by itself, in
        evaluation mode.

        Args:
            images: one picture, ``[1, dim]`` comes out then, or several: a list, any other iterable, a table,
                an array ``[n, h, w, 3]`` or a tensor ``[n, 3, h, w]``. A picture is a path, a PIL image, an
                array ``[h, w]``, ``[h, w, 3]`` or ``[h, w, 4]`` (uint8 or uint16, or floats in [0, 1]; the
                channels are RGB, so turn those of OpenCV with ``[..., ::-1]``), the bytes of a picture, a
                file opened in binary mode, or a dict with ``bytes`` or ``path``, as Hugging Face data sets
                hold them. These are resized. Tensors ``[3, h, w]`` are not: floats in [0, 1] are taken as
                they are, and of uint8 the centre.
            batch_size: images at a time; the result does not depend on it but for rounding.
            progress: called with the number of images done and of all, so far as that is known.
            head: with False the pooled features of the backbone instead, of unit length too.

        Raises:
            DataError: if something is no picture or cannot be decoded, or ``batch_size`` is not 1 or more.
        """
        given, batch_size = several(images), check_batch_size(batch_size)
        total, done, parts = len(given) if isinstance(given, Sized) else 0, 0, []
        with evaluating(self), torch.inference_mode():
            for prepared in self.prepared(given, batch_size):
                batch = prepared.to(self.mean.device)
                parts.append((self(batch) if head else normalize(self.features(batch))).cpu())
                done += len(batch)
                if progress is not None:
                    progress(done, max(done, total))
        width = self.dim if head else self.feature_dim
        # A clone, since a tensor of inference mode could not take part in training later.
        return torch.cat(parts).clone() if parts else torch.zeros(0, width)

    def prepared(self, images: Iterable[Any] | Tensor, batch_size: int) -> Iterator[Float[Tensor, "b 3 h w"]]:
        """Yield batches in [0, 1], read by threads one batch ahead."""
        return batches(images, self.preprocess, batch_size)

    def read(self, image: Any) -> Shaped[Tensor, "3 h w"]:
        """Return one image of any kind that ``encode`` takes: uint8 and resized, or the tensor that it is."""
        return read(image, self.preprocess)

    def similarity(self, a: Any, b: Any) -> Float[Tensor, "n m"]:
        """Return the cosine of each ``a`` with each ``b``: embeddings, or what ``encode`` takes.

        An array or a tensor of one or two axes is vectors of any floating-point type, ``[n, dim]`` or one
        ``[dim]``; so is a list of numbers or of vectors. A grey picture ``[h, w]`` goes into a list.

        Raises:
            DataError: if vectors are not floating point, or those of ``a`` and ``b`` differ in length.
        """
        found = (vectors(a, "a"), vectors(b, "b"))
        left, right = (self.encode(x) if v is None else v for x, v in zip((a, b), found, strict=True))
        return cosines(left, right)

    def fingerprint(self) -> str:
        """Return 16 hexadecimal digits of weights, structure and preprocessing: which model this is."""
        described = {"model": self.structure(), "preprocess": self.preprocess.to_dict()}
        return fingerprint(self.state_dict(), described)

    def structure(self) -> dict[str, Any]:
        """Return what the parts are, as ``model.toml`` keeps it."""
        return {
            "backbone": self.backbone_name,
            "dim": self.dim,
            "pooling": self.pooling_name,
            "head": self.head_name,
            "layer_norm": self.layer_norm,
            "freeze_batch_norm": self.freeze_batch_norm,
        }

    def save(
        self,
        folder: str | Path,
        *,
        classes: Sequence[str] = (),
        metrics: Mapping[str, Any] | None = None,
        command: str | None = None,
    ) -> Path:
        """Write ``weights.safetensors`` and ``model.toml``; a model saved there before is replaced whole.

        Args:
            folder: made if needed.
            classes: that the model was trained on.
            metrics: what it reached.
            command: that made it.

        The weights keep the floating-point types that they have, and ``load`` gives them back bit for bit.

        Raises:
            CheckpointError: if ``load`` could not read it: the model is no longer built as it was made, as by
                pruning, parametrizations or adapters, or a value has no form in TOML. What was there stays.
            OSError: if the disk refuses; what was there stays.
        """
        listed = list(classes) if isinstance(classes, Iterable) and not isinstance(classes, str) else classes
        details = describe_details(classes=listed, metrics=metrics or {}, command=command or "")
        check_savable(self, self._made, own_parts=type(self) is not Embedder)
        self._new_head.tell_if_frozen(self.head)
        dtype, dtypes = types_of(self)
        description: dict[str, Any] = {
            "nearfar": __version__,
            "fingerprint": self.fingerprint(),
            "command": details["command"],
            "dtype": dtype,
            "model": self.structure(),
            "preprocess": self.preprocess.to_dict(),
            "dtypes": dtypes,
            "metrics": details["metrics"],
            "classes": details["classes"],
        }
        write_model(Path(folder), self.state_dict(), description)
        return Path(folder)

    @classmethod
    def load(cls, folder: str | Path, *, backbone: nn.Module | None = None) -> "Embedder":
        """Return the model of a folder that ``save`` wrote, or of a run folder, in evaluation mode.

        Args:
            folder: with ``weights.safetensors`` and ``model.toml``.
            backbone: the module, where the model was made from a module and not from a name.

        Raises:
            CheckpointError: if the folder is no model, is damaged or was saved from another model.
        """
        folder = Path(folder)
        weights, description = read_model(folder)
        model = dict(description.sections["model"])
        name = model.pop("backbone")
        if name == CUSTOM and backbone is None:
            raise CheckpointError(
                f"'{folder}' was saved from a module of its own; give it, as in load(folder, backbone=…)."
            )
        if name != CUSTOM and backbone is not None:
            raise CheckpointError(
                f"'{folder}' was saved with the backbone {quoted(name)}; leave backbone out."
            )
        source = name if backbone is None else backbone
        # The weights it starts with are replaced at once; they must not draw from the caller's random state.
        with torch.random.fork_rng(devices=[]):
            embedder = cls(source, pretrained=False, preprocess=description.preprocess, **model)
        adopt_types(embedder, weights, description)
        fit_weights(embedder, weights, folder)
        embedder.details = description.details
        embedder._new_head = Untouched(())
        return embedder.eval()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Embedder":
        """Move or convert the model; what images are normalised with stays float32, as exact as it was."""
        super()._apply(fn, recurse)
        for name in ("mean", "std"):
            setattr(self, name, self._normalisation(name, getattr(self, name).device))
        return self

    def _normalisation(self, name: str, device: torch.device | None) -> Float[Tensor, "3 1 1"]:
        values = getattr(self.preprocess, name)
        return torch.tensor(values, dtype=torch.float32, device=device).view(3, 1, 1)
