"""How much each class counts."""

import operator
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.criterion.fixed import keep_fixed
from nearfar.errors import NearfarError
from nearfar.printable import quoted
from nearfar.similarity.stable import read


class ClassWeights(nn.Module):
    """Weights of classes, which move and are saved with the loss.

    Attributes:
        labels: the classes that have a weight, in order.
        weights: theirs.
        named: whether classes without one count 1, or are an error.
    """

    labels: Tensor
    weights: Tensor

    def __init__(self, labels: Int[Tensor, " class"], weights: Float[Tensor, " class"], named: bool) -> None:
        super().__init__()
        keep_fixed(self, "labels", labels)
        self.register_buffer("weights", weights)
        self.named = named

    @classmethod
    def of(
        cls, given: Mapping[int, float] | Sequence[float] | Tensor, class_labels: Tensor | None
    ) -> "ClassWeights":
        """Read weights by label, or one for each class in order of the labels (0, 1, 2, … without classes).

        Raises:
            NearfarError: if they are not numbers of at least 0, or not as many as there are classes.
        """
        try:
            if isinstance(given, Mapping):
                named = {operator.index(label): float(weight) for label, weight in given.items()}
                labels = torch.tensor(sorted(named), dtype=torch.long)
                weights = torch.tensor([named[label] for label in sorted(named)])
            else:
                weights = torch.as_tensor(given, dtype=torch.float32).detach().clone().reshape(-1)
                labels = torch.arange(len(weights)) if class_labels is None else class_labels.clone()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise NearfarError(
                f"class_weights must be numbers, by label or one for each class; got {quoted(given)}."
            ) from error
        if len(weights) != len(labels):
            raise NearfarError(
                f"class_weights has {len(weights)} weights but there are {len(labels)} classes; give one for "
                "each, or name the classes that differ from 1: {label: weight}."
            )
        if not bool(weights.isfinite().all()):
            raise NearfarError(f"class_weights must be finite numbers; got {quoted(given)}.")
        if not bool((weights >= 0).all()):
            raise NearfarError(f"class_weights must not be negative; got {float(weights.min()):g}.")
        return cls(labels, weights, isinstance(given, Mapping))

    def forward(self, labels: Int[Tensor, " n"]) -> Float[Tensor, " n"]:
        """Return the weight of each row's class.

        Raises:
            NearfarError: if a class has none.
        """
        if not isinstance(labels, Tensor) or labels.ndim != 1:
            raise NearfarError("class_weights needs labels that are classes [n].")
        labels, self.labels = labels.long(), self.labels.to(labels.device)
        place = torch.searchsorted(self.labels, labels).clamp_max(max(0, len(self.labels) - 1))
        known = (
            self.labels[place] == labels if len(self.labels) else torch.zeros_like(labels, dtype=torch.bool)
        )
        if not self.named and not read(known.all()):
            raise NearfarError(
                f"label {int(labels[~known][0])} has no weight: class_weights has {len(self.labels)}, one "
                "for each class. Name the classes that differ from 1 instead: {label: weight}."
            )
        weights = (
            self.weights[place] if len(self.labels) else labels.new_zeros(len(labels), dtype=torch.float32)
        )
        return torch.where(known, weights, 1.0)
