"""Reshape, Concat: the same numbers in another shape."""

from collections.abc import Sequence
from math import prod

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from nearfar.caffe.layers.bottoms import axis_of
from nearfar.errors import NearfarError


class Reshape(nn.Module):
    """Give ``num_axes`` axes, from ``axis`` on, another shape.

    Args:
        shape: the new sizes: 0 keeps the bottom's size at that place, -1 (once) is what is left over.
        axis: the first that is replaced; negative counts from the back, -1 is behind the last.
        num_axes: how many are replaced; -1 is all that follow.

    Raises:
        NearfarError: if more than one size is -1, or one is below that.
    """

    def __init__(self, shape: Sequence[int], axis: int = 0, num_axes: int = -1) -> None:
        super().__init__()
        if list(shape).count(-1) > 1 or min(shape, default=0) < -1 or num_axes < -1:
            raise NearfarError(
                f"Reshape takes sizes of 0 (keep), -1 (the rest, once) or more, and num_axes of -1 or more; "
                f"got {list(shape)} and num_axes={num_axes}."
            )
        self.shape, self.axis, self.num_axes = tuple(shape), axis, num_axes

    def forward(self, bottom: Shaped[Tensor, "*shape"]) -> Shaped[Tensor, "*new"]:
        start = axis_of(self.axis, bottom, end=True)
        end = bottom.ndim if self.num_axes == -1 else start + self.num_axes
        if end > bottom.ndim:
            raise NearfarError(
                f"Reshape replaces {self.num_axes} axes from axis {start} on, but the blob is "
                f"{bottom.ndim}-D: {list(bottom.shape)}."
            )
        sizes = list(self.shape)
        for place, size in enumerate(sizes):
            if size == 0:
                if start + place >= bottom.ndim:
                    raise NearfarError(
                        f"Reshape keeps the size of axis {start + place} (a 0 in {list(self.shape)}), but "
                        f"the blob is {bottom.ndim}-D: {list(bottom.shape)}."
                    )
                sizes[place] = bottom.shape[start + place]
        replaced = prod(bottom.shape[start:end])
        known = prod(size for size in sizes if size != -1)
        if -1 in sizes and known and replaced % known == 0:
            sizes[sizes.index(-1)] = replaced // known
        if prod(sizes) != replaced:
            raise NearfarError(
                f"Reshape cannot bring {list(bottom.shape[start:end])}, {replaced} numbers, to shape "
                f"{list(self.shape)}."
            )
        return bottom.reshape(*bottom.shape[:start], *sizes, *bottom.shape[end:])

    def extra_repr(self) -> str:
        return f"shape={self.shape}, axis={self.axis}, num_axes={self.num_axes}"


class Concat(nn.Module):
    """Put blobs side by side along an axis."""

    def __init__(self, axis: int = 1) -> None:
        super().__init__()
        self.axis = axis

    def forward(self, *bottoms: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
        if not bottoms:
            raise NearfarError("Concat needs one bottom or more; got none.")
        axis = axis_of(self.axis, bottoms[0])
        for bottom in bottoms[1:]:
            others = [(*blob.shape[:axis], *blob.shape[axis + 1 :]) for blob in (bottoms[0], bottom)]
            if bottom.ndim != bottoms[0].ndim or others[0] != others[1]:
                raise NearfarError(
                    f"Concat along axis {axis} needs blobs that differ there only; got "
                    f"{list(bottoms[0].shape)} and {list(bottom.shape)}."
                )
        return torch.cat(bottoms, axis)

    def extra_repr(self) -> str:
        return f"axis={self.axis}"
