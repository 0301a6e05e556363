"""How an image becomes the tensor that a model expects."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nearfar.data.decode import check_shape, decode
from nearfar.errors import ConfigError, require

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class Preprocess:
    """From a file to ``[3, size, size]``.

    Attributes:
        size: side of the square that the model sees.
        resize: side of the square that ``load`` makes and augmentation crops from; at least ``size``, which
            is the default.
        mean: mean of each channel, for values in [0, 1]; the model itself subtracts it.
        std: standard deviation of each channel, for values in [0, 1].
        interpolation: of the resize.
        fit: "crop" resizes the shorter side and cuts the middle of the longer; "squash" resizes both sides;
            "pad" resizes the longer side, so that the model sees the whole picture, with the mean colour
            around it.
    """

    size: int
    resize: int = 0
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    interpolation: Literal["bilinear", "bicubic"] = "bilinear"
    fit: Literal["crop", "squash", "pad"] = "crop"

    def __post_init__(self) -> None:
        if self.resize == 0:
            object.__setattr__(self, "resize", self.size)
        if not 0 < self.size <= self.resize:
            raise ConfigError(f"resize must be at least size; got size={self.size}, resize={self.resize}.")
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ConfigError(
                f"mean and std need a value for each of 3 channels, std above 0; got {self.mean}, {self.std}."
            )
        if self.interpolation not in {"bilinear", "bicubic"}:
            raise ConfigError(f"interpolation must be 'bilinear' or 'bicubic'; got '{self.interpolation}'.")
        if self.fit not in {"crop", "squash", "pad"}:
            raise ConfigError(f"fit must be 'crop', 'squash' or 'pad'; got '{self.fit}'.")

    def load(self, path: str | Path) -> UInt8[Tensor, "3 resize resize"]:
        """Decode a file and resize it.

        Raises:
            UnreadableImage: if the file cannot be decoded.
        """
        # Twice the side is enough for a clean reduction; decoding a JPEG at that scale is much faster.
        return self.from_image(decode(path, at_least=2 * self.resize))

    def from_image(self, image: "Image") -> UInt8[Tensor, "3 resize resize"]:
        """Resize an RGB image to the square.

        Raises:
            DataError: if it is so long that this would take gigabytes.
        """
        check_shape(image.size)
        if self.fit == "pad":
            image = self._padded(image)
        functional = require("torchvision.transforms.v2.functional", "train")
        wanted = [self.resize] if self.fit == "crop" else [self.resize, self.resize]
        if sorted(image.size) != sorted([self.resize, self.resize]):
            mode = functional.InterpolationMode(self.interpolation)
            image = functional.resize(image, wanted, interpolation=mode, antialias=True)
            # So that the middle of this square, which `center` takes, is the middle of the picture itself.
            inside = round((self.resize - self.size) / 2)
            left, top = (round((side - self.size) / 2) - inside for side in image.size)
            image = functional.crop(image, top, left, self.resize, self.resize)
        return functional.pil_to_tensor(image)

    def _padded(self, image: "Image") -> "Image":
        """Return the picture in the middle of a square of ``resize``, its longer side ``size`` long."""
        functional = require("torchvision.transforms.v2.functional", "train")
        width, height = (max(1, round(side * self.size / max(image.size))) for side in image.size)
        mode = functional.InterpolationMode(self.interpolation)
        small = functional.resize(image, [height, width], interpolation=mode, antialias=True)
        colour = tuple(round(255 * mean) for mean in self.mean)
        square = require("PIL.Image", "train").new("RGB", (self.resize, self.resize), colour)
        square.paste(small, ((self.resize - width) // 2, (self.resize - height) // 2))
        return square

    def center(self, images: UInt8[Tensor, "b 3 r r"]) -> Float[Tensor, "b 3 size size"]:
        """Return the middle of each image as float in [0, 1].

        Raises:
            ConfigError: if the images are smaller than ``size``.
        """
        height, width = images.shape[-2:]
        if min(height, width) < self.size:
            raise ConfigError(
                f"images are {height} x {width}, smaller than size {self.size}; load them with resize."
            )
        top, left = round((height - self.size) / 2), round((width - self.size) / 2)
        return images[..., top : top + self.size, left : left + self.size].to(torch.float32) / 255

    def to_dict(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, settings: Mapping[str, Any]) -> "Preprocess":
        """Return the preprocessing of these settings, as ``to_dict`` wrote them."""
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in settings.items()}
        return cls(**values)
