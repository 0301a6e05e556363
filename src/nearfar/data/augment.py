"""Random changes to a batch of images: one affine sampling, then one colour matrix."""

import math
from dataclasses import KW_ONLY, dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from nearfar.errors import ConfigError

# Rec. 601 weights of red, green and blue in the brightness of a pixel.
LUMA = (0.299, 0.587, 0.114)
DRAWS = 19


@dataclass(frozen=True)
class Augment:
    """Crop, turn, shift, mirror and recolour a batch at random.

    Each image draws the same count of numbers from the generator, whatever is switched on, so changing one
    setting does not change what the others draw. The work is done on the whole batch as tensors, in this
    process: the result does not depend on the number of workers.

    Attributes:
        size: side of the result.
        scale: share of the area that a crop keeps, least and most.
        ratio: width over height of a crop, least and most.
        flip: mirror half of the images. Wrong for letters, and for all that differs from its mirror image.
        rotate: largest turn, in degrees.
        translate: largest shift, as a share of the side.
        padding: what lies outside the image, where a turn or a shift looks: its "border" or its "reflection".
        brightness: largest relative change of brightness, in [0, 1].
        contrast: largest relative change of contrast, in [0, 1].
        saturation: largest relative change of saturation, in [0, 1].
        gray: share of the images that lose their colour.
        blur: share of the images that are blurred a little.
        erase: share of the images in which a rectangle of 2 to 20 % of the area is set to the image's mean
            colour.
    """

    size: int
    _: KW_ONLY
    scale: tuple[float, float] = (0.4, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    flip: bool = True
    rotate: float = 0.0
    translate: float = 0.0
    padding: Literal["border", "reflection"] = "border"
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    gray: float = 0.0
    blur: float = 0.0
    erase: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ConfigError(
                f"augment.scale must be two shares of the area, 0 < least <= most <= 1; got {self.scale}."
            )
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ConfigError(f"augment.ratio must be two ratios, 0 < least <= most; got {self.ratio}.")
        for name in ("translate", "brightness", "contrast", "saturation", "gray", "blur", "erase"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augment.{name} must be between 0 and 1; got {getattr(self, name)}.")
        if self.padding not in {"border", "reflection"}:
            raise ConfigError(f"augment.padding must be 'border' or 'reflection'; got '{self.padding}'.")

    @classmethod
    def none(cls, size: int) -> "Augment":
        """Return the augmentation that changes nothing: the centre crop that evaluation uses."""
        return cls(size, scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=False)

    def __call__(
        self, images: UInt8[Tensor, "b 3 r r"], generator: torch.Generator
    ) -> Float[Tensor, "b 3 size size"]:
        """Return changed images as float in [0, 1].

        Args:
            images: at least ``size`` on each side.
            generator: of the draws, on the CPU; nothing else random is touched.

        Raises:
            ConfigError: if the images are smaller than ``size``.
        """
        return self.apply(images, self.draw(len(images), generator))

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, "b draws"]:
        """Return the numbers that decide how each of ``count`` images is changed, on the CPU."""
        return torch.rand(count, DRAWS, generator=generator)

    def apply(
        self, images: UInt8[Tensor, "b 3 r r"], drawn: Float[Tensor, "b draws"]
    ) -> Float[Tensor, "b 3 size size"]:
        """Return images changed as ``drawn`` says: some of a batch, with their rows, as all of it at once.

        Raises:
            ConfigError: if the images are smaller than ``size``.
        """
        side = images.shape[-1]
        if min(images.shape[-2:]) < self.size:
            raise ConfigError(
                f"images are {side} px wide, smaller than size {self.size}; load them with resize."
            )
        draws = drawn.to(images.device).unbind(1)
        if self.moves:
            changed = grid_sample(
                images.to(torch.float32),
                places(self.affine(draws), self.size),
                mode="bilinear",
                padding_mode=self.padding,
                align_corners=False,
            ).div_(255)
        else:
            start = round((side - self.size) / 2)  # as `Preprocess.center`
            changed = (
                images[..., start : start + self.size, start : start + self.size].to(torch.float32) / 255
            )
        if self.blur:
            chosen = (draws[12] < self.blur).nonzero()[:, 0]
            changed[chosen] = soften(changed[chosen], strength=0.25 * draws[13][chosen])
        if self.recolours:
            changed = self.recolour(changed, draws)
        if self.erase:
            changed = self.erase_rectangle(changed, draws)
        return changed

    @property
    def moves(self) -> bool:
        """Whether any image is sampled anew."""
        still = self.scale == (1.0, 1.0) and self.ratio == (1.0, 1.0) and not self.flip
        return not still or self.rotate > 0 or self.translate > 0

    @property
    def recolours(self) -> bool:
        """Whether any colour changes."""
        return max(self.brightness, self.contrast, self.saturation, self.gray) > 0

    def affine(self, draws: tuple[Float[Tensor, " b"], ...]) -> Float[Tensor, "b 2 3"]:
        """Return where in its image each place of the result lies; both run from -1 to 1."""
        area = between(draws[0], *self.scale)
        root = torch.exp(between(draws[1], *map(math.log, self.ratio)) / 2)
        width, height = (area.sqrt() * root).clamp(max=1), (area.sqrt() / root).clamp(max=1)
        across = (1 - width) * (2 * draws[2] - 1) + 2 * self.translate * (2 * draws[3] - 1)
        down = (1 - height) * (2 * draws[4] - 1) + 2 * self.translate * (2 * draws[5] - 1)
        angle = math.radians(self.rotate) * (2 * draws[6] - 1)
        mirror = torch.where(draws[7] < 0.5, -1.0, 1.0) if self.flip else torch.ones_like(angle)
        cos, sin = angle.cos(), angle.sin()
        rows = [cos * width * mirror, -sin * height, across, sin * width * mirror, cos * height, down]
        return torch.stack(rows, dim=1).view(-1, 2, 3)

    def recolour(
        self, images: Float[Tensor, "b 3 s s"], draws: tuple[Float[Tensor, " b"], ...]
    ) -> Float[Tensor, "b 3 s s"]:
        """Change brightness, saturation and contrast by one matrix and one offset for each image."""
        luma = images.new_tensor(LUMA)
        saturation = 1 + self.saturation * (2 * draws[8] - 1)
        saturation = torch.where(draws[9] < self.gray, 0.0, saturation)[:, None, None]
        brightness = (1 + self.brightness * (2 * draws[10] - 1))[:, None, None]
        contrast = (1 + self.contrast * (2 * draws[11] - 1))[:, None, None]
        # Saturation mixes each channel with the brightness of the pixel, contrast with that of the whole
        # image.
        matrix = brightness * (
            saturation * torch.eye(3, device=images.device) + (1 - saturation) * luma.expand(3, 3)
        )
        flat = images.flatten(2)
        mean = (flat.mean(2) @ luma)[:, None, None] * brightness
        return torch.baddbmm((1 - contrast) * mean, contrast * matrix, flat).clamp_(0, 1).view_as(images)

    def erase_rectangle(
        self, images: Float[Tensor, "b 3 s s"], draws: tuple[Float[Tensor, " b"], ...]
    ) -> Float[Tensor, "b 3 s s"]:
        """Set a rectangle of some images to their mean colour."""
        area = between(draws[15], 0.02, 0.2)
        root = torch.exp(between(draws[16], math.log(0.5), math.log(2)) / 2)
        half = torch.stack([area.sqrt() * root, area.sqrt() / root], dim=1) / 2
        middle = half + (1 - 2 * half) * torch.stack([draws[17], draws[18]], dim=1)
        centres = (torch.arange(self.size, device=images.device) + 0.5) / self.size
        inside = (centres - middle[..., None]).abs() < half[..., None]
        inside &= (draws[14] < self.erase)[:, None, None]
        mask = inside[:, 0, :, None] & inside[:, 1, None, :]
        return torch.where(mask[:, None], images.mean((2, 3), keepdim=True), images)


def between(draw: Float[Tensor, " b"], least: float, most: float) -> Float[Tensor, " b"]:
    """Return numbers in [least, most] from numbers in [0, 1]."""
    return least + (most - least) * draw


def places(affine: Float[Tensor, "b 2 3"], size: int) -> Float[Tensor, "b size size 2"]:
    """Return the place that each pixel of the result is taken from.

    This is torch's ``affine_grid``, which multiplies matrices of 3 columns and takes 8 times as long.
    """
    centres = (torch.arange(size, device=affine.device) * 2 + 1) / size - 1
    grid = affine.new_empty(len(affine), size, size, 2)
    for axis in range(2):
        across, down, shift = affine[:, axis, :, None].unbind(1)
        torch.add((down * centres)[:, :, None], (across * centres + shift)[:, None, :], out=grid[..., axis])
    return grid


def soften(images: Float[Tensor, "b 3 s s"], strength: Float[Tensor, " b"]) -> Float[Tensor, "b 3 s s"]:
    """Blur by the kernel (w, 1 - 2w, w) across and down, with w the ``strength`` of each image."""
    weight = strength[:, None, None, None]
    wide = pad(images, (1, 1, 0, 0), mode="replicate")
    images = images + weight * (wide[..., :-2] + wide[..., 2:] - 2 * images)
    high = pad(images, (0, 0, 1, 1), mode="replicate")
    return images + weight * (high[..., :-2, :] + high[..., 2:, :] - 2 * images)
