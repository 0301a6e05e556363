"""InnerProduct: a linear layer that learns its input size from the first batch."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from nearfar.caffe.layers.bottoms import axis_of
from nearfar.errors import NearfarError


class InnerProduct(nn.Module):
    """y = W x + b, with all axes from ``axis`` on taken as one vector x.

    Weights start as torch's linear layers do and biases at 0; Caffe's own default for weights is 0, which
    learns nothing, so definitions name a filler.

    Args:
        num_output: length of y (>= 1).
        bias_term: whether there is a b.
        axis: the first that belongs to x; negative counts from the back.
        transpose: whether the weights lie as [input, output].
        in_features: length of x; None takes it from the first batch.

    Raises:
        NearfarError: if ``num_output`` is less than 1.
    """

    def __init__(
        self,
        num_output: int,
        bias_term: bool = True,
        axis: int = 1,
        transpose: bool = False,
        *,
        in_features: int | None = None,
    ) -> None:
        super().__init__()
        if num_output < 1:
            raise NearfarError(f"InnerProduct needs num_output of 1 or more; got {num_output}.")
        self.num_output, self.axis, self.transpose = num_output, axis, transpose
        self.weight: nn.Parameter = UninitializedParameter()  # pyrefly: ignore
        self.bias = nn.Parameter(torch.zeros(num_output)) if bias_term else None
        self.register_load_state_dict_pre_hook(_begin_as_saved)
        if in_features is not None:
            self._begin(in_features)

    def forward(self, bottom: Float[Tensor, "*shape"]) -> Float[Tensor, "*head out"]:
        x = bottom.flatten(axis_of(self.axis, bottom))
        if isinstance(self.weight, UninitializedParameter):
            self._begin(x.shape[-1])
        weight = self.weight.mT if self.transpose else self.weight
        if x.shape[-1] != weight.shape[1]:
            raise NearfarError(
                f"InnerProduct was made for {weight.shape[1]} inputs but the blob {list(bottom.shape)} has "
                f"{x.shape[-1]} from axis {self.axis} on."
            )
        return nn.functional.linear(x, weight, self.bias)

    def extra_repr(self) -> str:
        return (
            f"num_output={self.num_output}, bias_term={self.bias is not None}, axis={self.axis}, "
            f"transpose={self.transpose}"
        )

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        """Before the first batch there are no weights to save."""
        if isinstance(self.weight, UninitializedParameter):
            if self.bias is not None:
                destination[f"{prefix}bias"] = self.bias if keep_vars else self.bias.detach()
            return
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _begin(self, inputs: int) -> None:
        assert isinstance(self.weight, UninitializedParameter)
        shape = (inputs, self.num_output) if self.transpose else (self.num_output, inputs)
        self.weight.materialize(shape)
        with torch.no_grad():
            bound = max(1, inputs) ** -0.5
            self.weight.uniform_(-bound, bound)


def _begin_as_saved(layer: nn.Module, state: dict[str, Tensor], prefix: str, *_: Any) -> None:
    """Make room for weights that are loaded before the first batch."""
    assert isinstance(layer, InnerProduct)
    weight = state.get(f"{prefix}weight")
    if isinstance(layer.weight, UninitializedParameter) and weight is not None and weight.ndim == 2:
        layer._begin(weight.shape[0] if layer.transpose else weight.shape[1])
