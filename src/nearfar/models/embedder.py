"""The model: backbone, pooling, head, unit length."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Union

import numpy as np
import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nearfar import __version__
from nearfar.data.decode import processors, to_rgb, upright
from nearfar.data.preprocess import Preprocess
from nearfar.data.table import Table
from nearfar.errors import CheckpointError, ConfigError, DataError
from nearfar.models.backbones import CUSTOM, create_backbone, evaluating
from nearfar.models.heads import HeadName, create_head
from nearfar.models.pooling import PoolingName, create_pooling
from nearfar.models.saved import fingerprint, fit_weights, read_model, write_model
from nearfar.similarity import normalize

if TYPE_CHECKING:
    from PIL.Image import Image

Source = Union[str, Path, "Image"]


class Embedder(nn.Module):
    """Images to unit-length embeddings.

    Args:
        backbone: a name of ``nearfar.models.names()``, or a module that maps images to ``[n, features, h,
            w]`` or ``[n, features]``.
        dim: length of the embeddings; with ``head="none"`` it is that of the features.
        pooling: of maps; a backbone that gives tokens pools them itself.
        head: "linear" projects the pooled features to ``dim``.
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
        self.register_buffer("mean", torch.tensor(self.preprocess.mean).view(3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(self.preprocess.std).view(3, 1, 1), persistent=False)
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
        return self.pooling(self.backbone((images - self.mean) / self.std)).float()

    def train(self, mode: bool = True) -> "Embedder":
        """Switch between training and evaluation; frozen batch norm stays in evaluation."""
        super().train(mode)
        if self.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def encode(
        self,
        images: Source | Sequence[Source] | Table | Tensor,
        *,
        batch_size: int = 64,
        progress: Callable[[int, int], None] | None = None,
        head: bool = True,
    ) -> Float[Tensor, "n dim"]:
        """Return embeddings on the CPU, of unit length, without gradient; each image by itself, in evaluation
        mode.

        Args:
            images: a path or a PIL image, a list of them, a table, or a tensor: float ``[n, 3, h, w]`` in [0,
                1], or uint8 ``[n, 3, r, r]``, of which the centre is taken.
            batch_size: images at a time; the result does not depend on it but for rounding.
            progress: called with the number of images done and of all.
            head: with False the pooled features of the backbone instead, of unit length too.

        Raises:
            DataError: if a file cannot be decoded.
        """
        if isinstance(images, Table):
            images = images.path.tolist()
        elif isinstance(images, np.ndarray):
            images = images.tolist()
        elif not isinstance(images, (Tensor, Sequence)) or isinstance(images, str):
            images = [images]
        total, done, parts = len(images), 0, []
        with evaluating(self), torch.inference_mode():
            for prepared in self.prepared(images, batch_size):
                batch = prepared.to(self.mean.device)
                parts.append((self(batch) if head else normalize(self.features(batch))).cpu())
                done += len(batch)
                if progress is not None:
                    progress(done, total)
        width = self.dim if head else self.feature_dim
        # A clone, since a tensor of inference mode could not take part in training later.
        return torch.cat(parts).clone() if parts else torch.zeros(0, width)

    def prepared(
        self, images: Sequence[Source] | Tensor, batch_size: int
    ) -> Iterator[Float[Tensor, "b 3 h w"]]:
        """Yield batches in [0, 1], read by threads one batch ahead."""
        starts = range(0, len(images), batch_size)
        if isinstance(images, Tensor):
            for start in starts:
                batch = images[start : start + batch_size]
                yield self.preprocess.center(batch) if batch.dtype == torch.uint8 else batch
            return
        with ThreadPoolExecutor(processors()) as pool:
            ahead = None
            for start in starts:
                coming = [pool.submit(self.read, image) for image in images[start : start + batch_size]]
                if ahead is not None:
                    yield self.preprocess.center(torch.stack([future.result() for future in ahead]))
                ahead = coming
            if ahead is not None:
                yield self.preprocess.center(torch.stack([future.result() for future in ahead]))

    def read(self, image: Source) -> Shaped[Tensor, "3 r r"]:
        """Return one image, of a path or a PIL image, as uint8."""
        if isinstance(image, (str, Path)):
            return self.preprocess.load(image)
        return self.preprocess.from_image(to_rgb(upright(image)))

    def similarity(self, a: Any, b: Any) -> Float[Tensor, "n m"]:
        """Return the cosine of each ``a`` with each ``b``: embeddings, or what ``encode`` takes."""
        given = [x.cpu() if isinstance(x, Tensor) and x.ndim == 2 else self.encode(x) for x in (a, b)]
        left, right = (normalize(x.float()) for x in given)
        return left @ right.T

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

        Raises:
            OSError: if the disk refuses; what was there stays.
        """
        description: dict[str, Any] = {
            "nearfar": __version__,
            "fingerprint": self.fingerprint(),
            "command": command or "",
            "model": self.structure(),
            "preprocess": self.preprocess.to_dict(),
            "metrics": dict(metrics or {}),
            "classes": list(classes),
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
        try:
            model = dict(description["model"])
            name = model.pop("backbone")
            preprocess = Preprocess.from_dict(description["preprocess"])
            details = {key: description[key] for key in ("classes", "metrics", "command")}
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"'{folder}' does not describe its model as nearfar {__version__} does ({error}); "
                f"it was written by version {description.get('nearfar')} or edited."
            ) from error
        if name == CUSTOM and backbone is None:
            raise CheckpointError(
                f"'{folder}' was saved from a module of its own; give it, as in load(folder, backbone=…)."
            )
        source = name if backbone is None else backbone
        # The weights it starts with are replaced at once; they must not draw from the caller's random state.
        with torch.random.fork_rng(devices=[]):
            embedder = cls(source, pretrained=False, preprocess=preprocess, **model)
        fit_weights(embedder, weights, folder)
        if embedder.fingerprint() != description["fingerprint"]:
            raise CheckpointError(
                f"'{folder}' has fingerprint {description['fingerprint']} but its weights give "
                f"{embedder.fingerprint()}; a file was changed after it was saved."
            )
        embedder.details = details
        return embedder.eval()
