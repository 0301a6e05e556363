"""Layers with weights of their own as Caffe computes them; shapes come from the first batch."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parameter import UninitializedBuffer, UninitializedParameter

from nearfar.caffe import layers
from nearfar.caffe.fillers import fill
from nearfar.caffe.prototxt import Message


class Convolution(nn.LazyConv2d):
    """A convolution whose input channels are those of the first batch, filled as Caffe fills.

    Args:
        outputs: channels of the result.
        kernel, stride, pad, dilation: (down, across).
        group: how many groups of channels, each by itself.
        bias_term: whether to add a bias.
        fillers: of the weights and of the bias; None is PyTorch's own.
    """

    def __init__(
        self,
        outputs: int,
        *,
        kernel: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        pad: tuple[int, int] = (0, 0),
        dilation: tuple[int, int] = (1, 1),
        group: int = 1,
        bias_term: bool = True,
        fillers: Sequence[Message | None] = (None, None),
    ) -> None:
        self.fillers: tuple[Message | None, ...] = ()
        super().__init__(outputs, kernel, stride, pad, dilation, group, bias_term)
        self.fillers = tuple(fillers)

    def reset_parameters(self) -> None:
        """Draw the first values, once the number of input channels is known."""
        super().reset_parameters()
        if not self.has_uninitialized_params():  # pyrefly: ignore
            for weight, filler in zip((self.weight, self.bias), self.fillers, strict=False):
                if weight is not None and filler is not None:
                    fill(weight, filler)


class InnerProduct(layers.InnerProduct):
    """A linear layer that is filled as its definition says.

    Args:
        num_output, bias_term, axis, transpose: as in ``nearfar.caffe.layers.InnerProduct``.
        fillers: of the weights and of the bias; None is that layer's own.
    """

    def __init__(
        self,
        num_output: int,
        bias_term: bool = True,
        axis: int = 1,
        transpose: bool = False,
        *,
        fillers: Sequence[Message | None] = (None, None),
    ) -> None:
        super().__init__(num_output, bias_term, axis, transpose)
        self.fillers = tuple(fillers)

    def _begin(self, inputs: int) -> None:
        super()._begin(inputs)
        for weight, filler in zip((self.weight, self.bias), self.fillers, strict=True):
            if weight is not None and filler is not None:
                fill(weight, filler)


class BatchNorm(LazyModuleMixin, nn.Module):
    """Subtract the mean of each channel and divide by its deviation; the scale is a layer of its own.

    Args:
        global_stats: use the kept statistics; None does so in evaluation mode, as Caffe in phase TEST.
        fraction: how much of the kept statistics is left after each step.
        eps: added to the variance.
    """

    mean: Tensor | UninitializedBuffer
    variance: Tensor | UninitializedBuffer
    weight: Tensor

    def __init__(
        self, global_stats: bool | None = None, *, fraction: float = 0.999, eps: float = 1e-5
    ) -> None:
        super().__init__()  # pyrefly: ignore
        self.global_stats, self.fraction, self.eps = global_stats, fraction, eps
        self.register_buffer("mean", UninitializedBuffer())
        self.register_buffer("variance", UninitializedBuffer())
        self.register_buffer("weight", torch.zeros(()))

    def initialize_parameters(self, x: Tensor) -> None:
        """Make the kept statistics for as many channels as ``x`` has."""
        for kept in (self.mean, self.variance):
            if isinstance(kept, UninitializedBuffer):
                kept.materialize((x.shape[1],))
                nn.init.zeros_(kept)

    def forward(self, x: Float[Tensor, "n c *space"]) -> Float[Tensor, "n c *space"]:
        """Return the normalised blob; in training, keep a running sum of the statistics."""
        kept = self.global_stats if self.global_stats is not None else not self.training
        shape = (1, -1, *(1 for _ in x.shape[2:]))
        if kept:
            # The sums grow from 0, as does the sum of their weights: their ratio is the mean.
            share = torch.where(self.weight == 0, 0.0, 1 / self.weight)
            return (x - (self.mean * share).view(shape)) / (self.variance * share + self.eps).sqrt().view(
                shape
            )
        axes = [axis for axis in range(x.ndim) if axis != 1]
        mean, variance = x.mean(axes), x.var(axes, correction=0)
        if self.training:
            n = x.numel() // x.shape[1]
            with torch.no_grad():
                self.weight.mul_(self.fraction).add_(1)
                self.mean.mul_(self.fraction).add_(mean)
                self.variance.mul_(self.fraction).add_(variance, alpha=n / max(1, n - 1))
        return (x - mean.view(shape)) / (variance + self.eps).sqrt().view(shape)


class Scale(LazyModuleMixin, nn.Module):
    """Multiply by a learned factor along some axes, or by a second blob, and add a learned offset.

    Args:
        axis: the first axis of the factor.
        num_axes: how many axes it has; -1 for all from ``axis`` on.
        bias_term: whether to add an offset.
        fillers: of the factor and of the offset; None is 1 and 0.
    """

    def __init__(
        self,
        axis: int = 1,
        num_axes: int = 1,
        *,
        bias_term: bool = False,
        fillers: Sequence[Message | None] = (None, None),
    ) -> None:
        super().__init__()  # pyrefly: ignore
        self.axis, self.num_axes, self.bias_term, self.fillers = axis, num_axes, bias_term, tuple(fillers)
        self.factor = UninitializedParameter()
        if bias_term:
            self.offset = UninitializedParameter()

    def initialize_parameters(self, x: Tensor, factor: Tensor | None = None) -> None:
        """Make the factor and the offset for the shape of ``x``."""
        shape = tuple(x.shape[i] for i in self._axes(x.ndim)) if factor is None else tuple(factor.shape)
        for name, value, filler in zip(("factor", "offset"), (1.0, 0.0), self.fillers, strict=True):
            parameter = getattr(self, name, None)
            if isinstance(parameter, UninitializedParameter):
                parameter.materialize(shape)
                nn.init.constant_(parameter, value)
                if filler is not None:
                    fill(parameter, filler)

    def forward(
        self, x: Float[Tensor, "*x"], factor: Float[Tensor, "*f"] | None = None
    ) -> Float[Tensor, "*x"]:
        """Return ``x`` times the factor, plus the offset."""
        by = self.factor if factor is None else factor
        first = self._axes(x.ndim)[0] if x.ndim else 0
        shape = (*by.shape, *(1 for _ in range(x.ndim - first - by.ndim)))
        scaled = x * by.view(shape)
        return scaled + self.offset.view(shape) if self.bias_term else scaled

    def _axes(self, ndim: int) -> range:
        first = self.axis % ndim
        return range(first, ndim if self.num_axes == -1 else first + self.num_axes)
