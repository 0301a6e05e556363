"""Several losses of the same embeddings, added up."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from nearfar.criterion.asked import read_mark
from nearfar.criterion.batch import Batch
from nearfar.criterion.creation import create
from nearfar.criterion.module import Loss
from nearfar.errors import NearfarError
from nearfar.inputs import Labels
from nearfar.losses.parts.registry import has_proxies
from nearfar.memory import CrossBatchMemory
from nearfar.numbers import number
from nearfar.printable import quoted
from nearfar.registered import MOST


class Sum(nn.Module):
    """Σ_k weight_k · loss_k: ``Sum({"proxy_anchor": 1.0, "contrastive": 0.2}, classes=…, dim=…)``.

    A loss is named, and then has its default settings, or made by ``create``. It is called as one loss is.
    Losses that compare with classes (``proxy_anchor``) or look at the embeddings alone (``uniformity``) are
    not shown candidates or a memory, and one that has a value for each class is not shown weights.

    Attributes:
        losses: by name; the second of one name is called name_2, and so on.
        weights: of each, by the same names.
        parts: value of each loss in the last batch, without its weight and without gradient.
    """

    def __init__(
        self,
        losses: Mapping[str | Loss, float],
        *,
        classes: int | Sequence[int] | Int[Tensor, " n"] | None = None,
        dim: int | None = None,
        unlabelled: int | None = None,
    ) -> None:
        """Add up some losses.

        Args:
            losses: names or losses, and the weight of each.
            classes, dim: for the named ones that have proxies; see ``create``.
            unlabelled: the label of rows that have none, left out of all; see ``create``.

        Raises:
            NearfarError: if there is none, one is no loss, or a weight is no number.
        """
        super().__init__()
        if not isinstance(losses, Mapping):
            raise NearfarError(f"a sum of losses takes {{name: weight, …}}; got {quoted(losses)}.")
        if not losses:
            raise NearfarError("a sum of losses needs one or more: {name: weight, …}.")
        self.unlabelled = None if unlabelled is None else read_mark(unlabelled)
        self.weights: dict[str, float] = {}
        self.losses = nn.ModuleDict()
        for given, weight in losses.items():
            share = number(weight)
            if share is None or abs(share) > MOST:
                raise NearfarError(
                    f"the weight of a loss must be a number; got {quoted(weight)}. It is to be finite, "
                    f"and at most {MOST:g}."
                )
            loss = _loss(given, classes, dim, self.unlabelled)
            same = sum(other.name == loss.name for other in self._each())
            name = f"{loss.name}_{same + 1}" if same else loss.name
            self.losses[name], self.weights[name] = loss, float(share)
        for loss in [one for one in self._each() if one.looks_at_labels][1:]:
            loss.warned_of_missing()
        self.parts: dict[str, Float[Tensor, ""]] = {}

    def forward(
        self,
        embeddings: Float[Tensor, "n dim"],
        labels: Labels,
        candidates: Float[Tensor, "m dim"] | None = None,
        candidate_labels: Int[Tensor, " m"] | Int[Tensor, "m tag"] | None = None,
        *,
        weights: Float[Tensor, " n"] | None = None,
        ids: Int[Tensor, " n"] | None = None,
        candidate_ids: Int[Tensor, " m"] | None = None,
        memory: CrossBatchMemory | None = None,
    ) -> Float[Tensor, ""]:
        """Return the weighted sum; the arguments are those of one loss.

        Raises:
            NearfarError: if shapes or types do not fit.
        """
        if self.unlabelled is not None:
            given = Batch(embeddings, labels, candidates, candidate_labels, weights, ids, candidate_ids)
            b, _ = given.labelled(self.unlabelled)
            embeddings, labels, candidates = b.embeddings, b.labels, b.candidates
            candidate_labels, weights, ids, candidate_ids = (
                b.candidate_labels,
                b.weights,
                b.ids,
                b.candidate_ids,
            )
        values = {}
        shown = {"weights": weights, "ids": ids, "candidate_ids": candidate_ids, "memory": memory}
        with nullcontext() if memory is None else memory.one_step():
            for name, loss in self.losses.items():
                assert isinstance(loss, Loss)
                if loss.compares_with_the_batch:
                    values[name] = loss(embeddings, labels, candidates, candidate_labels, **shown)
                else:
                    own = weights if loss.weighs_anchors else None
                    values[name] = loss(embeddings, labels, weights=own, ids=ids)
        self.parts = {name: value.detach() for name, value in values.items()}
        return torch.stack([self.weights[name] * value for name, value in values.items()]).sum(0)

    @property
    def reads_lengths(self) -> bool:
        """Whether one of them looks at the lengths of embeddings."""
        return any(loss.reads_lengths for loss in self._each())

    def extra_repr(self) -> str:
        """Show the weights."""
        return f"weights={self.weights}"

    def _each(self) -> list[Loss]:
        return [loss for loss in self.losses.values() if isinstance(loss, Loss)]


def _loss(
    given: str | Loss,
    classes: int | Sequence[int] | Tensor | None,
    dim: int | None,
    unlabelled: int | None,
) -> Loss:
    if isinstance(given, Loss):
        loss = given
    elif not isinstance(given, str):
        raise NearfarError(f"a sum is of losses or their names; got {type(given).__name__}.")
    elif has_proxies(given):
        loss = create(given, classes=classes, dim=dim, unlabelled=unlabelled)
    else:
        loss = create(given, unlabelled=unlabelled)
    if loss.reduction == "none":
        raise NearfarError(f"{loss.name} has reduction='none', and a sum is of scalars.")
    return loss
