"""Layers of ordinary networks without weights, where PyTorch's differ from Caffe's or have no equal."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from nearfar.errors import NearfarError


class Pooling(nn.Module):
    """The largest value or the mean of each window; the last window may hang over the edge.

    Args:
        kind: "MAX" or "AVE". A mean divides by the part of its window that lies in the padded image.
        kernel, stride, pad: (down, across).
        everything: one window over the whole map, whatever its size.
        ceil: round the number of windows up, as Caffe does unless told.
    """

    def __init__(
        self,
        kind: str = "MAX",
        *,
        kernel: tuple[int, int] = (1, 1),
        stride: tuple[int, int] = (1, 1),
        pad: tuple[int, int] = (0, 0),
        everything: bool = False,
        ceil: bool = True,
    ) -> None:
        super().__init__()
        self.kind, self.everything, self.ceil = kind, everything, ceil
        self.kernel, self.stride, self.pad = kernel, stride, pad

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Return the pooled map."""
        if self.everything:
            return x.amax((2, 3), keepdim=True) if self.kind == "MAX" else x.mean((2, 3), keepdim=True)
        pool = F.max_pool2d if self.kind == "MAX" else F.avg_pool2d
        return pool(x, self.kernel, self.stride, self.pad, ceil_mode=self.ceil)

    def extra_repr(self) -> str:
        """Show the window."""
        where = (
            "everything" if self.everything else f"kernel={self.kernel}, stride={self.stride}, pad={self.pad}"
        )
        return f"{self.kind}, {where}"


class Slice(nn.Module):
    """Cut a blob along an axis, at given points or into equal parts.

    Args:
        parts: how many.
        axis: which axis.
        points: where each part but the first begins; equal parts without them.
    """

    def __init__(self, parts: int, axis: int = 1, points: tuple[int, ...] = ()) -> None:
        super().__init__()
        self.parts, self.axis, self.points = parts, axis, points

    def forward(self, x: Float[Tensor, "*x"]) -> tuple[Tensor, ...]:
        """Return the parts.

        Raises:
            NearfarError: if the axis cannot be cut so.
        """
        length = x.shape[self.axis]
        if not self.points:
            if length % self.parts:
                raise NearfarError(
                    f"axis {self.axis} has length {length}, which {self.parts} equal parts do not divide."
                )
            return x.chunk(self.parts, self.axis)
        if len(self.points) != self.parts - 1 or self.points[-1] >= length:
            raise NearfarError(
                f"slice points {list(self.points)} do not cut axis {self.axis} of length {length} into "
                f"{self.parts} parts."
            )
        return x.tensor_split(list(self.points), self.axis)


class Flatten(nn.Module):
    """Join the axes from ``axis`` to ``end_axis`` into one."""

    def __init__(self, axis: int = 1, end_axis: int = -1) -> None:
        super().__init__()
        self.axis, self.end_axis = axis, end_axis

    def forward(self, x: Float[Tensor, "*x"]) -> Float[Tensor, "*y"]:
        """Return the flat blob."""
        return x.flatten(self.axis, self.end_axis)


class Constant(nn.Module):
    """Blobs of one value each: what DummyData with constant fillers gives."""

    def __init__(self, shapes: Sequence[tuple[int, ...]], values: Sequence[float]) -> None:
        super().__init__()
        self.count = len(shapes)
        for place, (shape, value) in enumerate(zip(shapes, values, strict=True)):
            self.register_buffer(f"blob{place}", torch.full(shape, float(value)), persistent=False)

    def forward(self) -> tuple[Tensor, ...]:
        """Return the blobs."""
        return tuple(getattr(self, f"blob{place}") for place in range(self.count))


class Repeat(nn.Module):
    """The same blob ``count`` times: what Split gives, and with 0 what Silence gives."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, *blobs: Tensor) -> tuple[Tensor, ...]:
        """Return the first blob so often."""
        return blobs[:1] * self.count


class SoftmaxWithLoss(nn.Module):
    """The mean cross-entropy of class scores along axis 1.

    Args:
        ignore_label: places of this label do not count.
        normalization: what the sum is divided by: "VALID", the places that count, "FULL", all places,
            "BATCH_SIZE", the rows, or "NONE".
    """

    def __init__(self, ignore_label: int | None = None, normalization: str = "VALID") -> None:
        super().__init__()
        self.ignore_label = -100 if ignore_label is None else ignore_label
        self.normalization = normalization

    def forward(self, scores: Float[Tensor, "n class *s"], labels: Tensor) -> Float[Tensor, ""]:
        """Return the loss; 0 where no place counts."""
        labels = labels.long().view(scores.shape[0], *scores.shape[2:])
        total = F.cross_entropy(scores, labels, ignore_index=self.ignore_label, reduction="sum")
        match self.normalization:
            case "VALID":
                return total / (labels != self.ignore_label).sum().clamp_min(1)
            case "FULL":
                return total / max(1, labels.numel())
            case "BATCH_SIZE":
                return total / max(1, len(labels))
        return total


class Accuracy(nn.Module):
    """The share of rows whose label is among the ``top_k`` highest scores.

    Args:
        top_k: how many scores count.
        ignore_label: rows of this label do not count.
    """

    def __init__(self, top_k: int = 1, ignore_label: int | None = None) -> None:
        super().__init__()
        self.top_k, self.ignore_label = top_k, ignore_label

    def forward(self, scores: Float[Tensor, "n class"], labels: Int[Tensor, " n"]) -> Float[Tensor, ""]:
        """Return the share; equal scores count against the row."""
        labels = labels.long().view(-1)
        if self.ignore_label is not None:
            scores, labels = scores[labels != self.ignore_label], labels[labels != self.ignore_label]
        own = scores.gather(1, labels[:, None])
        return ((scores >= own).sum(1) <= self.top_k).to(scores).sum() / max(1, len(labels))
