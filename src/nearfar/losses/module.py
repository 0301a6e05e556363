"""The nn.Module around a loss function: names to arithmetic, labels to pairs, values to a scalar."""

import warnings
from collections.abc import Mapping
from typing import Any, get_args

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn

from nearfar.errors import NearfarError, suggest
from nearfar.inputs import check_embeddings
from nearfar.losses.registry import registry
from nearfar.losses.terms import Reduction, Statistics, Terms
from nearfar.mining import Rule
from nearfar.mining import create as create_rule
from nearfar.pairs import Pairs
from nearfar.similarity import Measure, choose


class Loss(nn.Module):
    """A loss over pairs of embeddings; made by ``nearfar.losses.create``.

    Attributes:
        name: the loss function's name.
        settings: its hyper-parameters, defaults included.
        last: statistics of the last batch, or None before the first.
    """

    def __init__(
        self,
        name: str,
        settings: Mapping[str, Any],
        *,
        mining: Rule | None,
        similarity: Measure,
        reduction: Reduction,
        backend: str,
        across_ranks: bool,
    ) -> None:
        super().__init__()
        self.name = name
        self.settings = dict(settings)
        self.mining = mining
        self.similarity: Measure = similarity
        self.reduction: Reduction = reduction
        self.backend = backend
        self.across_ranks = across_ranks
        self.last: Statistics | None = None
        self._entry = registry[name]
        self._warned = False

    def forward(
        self,
        embeddings: Float[Tensor, "n dim"],
        labels: Int[Tensor, " n"],
        candidates: Float[Tensor, "m dim"] | None = None,
        candidate_labels: Int[Tensor, " m"] | None = None,
        *,
        weights: Float[Tensor, " n"] | None = None,
        ids: Int[Tensor, " n"] | None = None,
        candidate_ids: Int[Tensor, " m"] | None = None,
    ) -> Shaped[Tensor, "..."]:
        """Compare a batch with itself, or with ``candidates``, and return the loss.

        Args:
            embeddings: one row per item, any length (normalised here for the cosine). Half precision is
                computed in float32.
            labels: class of each row; rows of equal label are positives.
            candidates, candidate_labels: what to compare with instead of the batch itself.
            weights: how much each anchor counts (>= 0).
            ids, candidate_ids: two rows with the same id are never compared.

        Returns:
            A scalar, or one value per anchor with ``reduction="none"``.

        Raises:
            NearfarError: if shapes or types do not fit.
        """
        if (candidates is None) != (candidate_labels is None):
            raise NearfarError("candidates and candidate_labels go together; give both or neither.")
        if self.across_ranks and _ranks() > 1:
            raise NearfarError(
                f"{_ranks()} ranks are running, and losses across ranks are not built yet; "
                "create the loss with across_ranks=False to compare within each rank."
            )
        if candidates is None and candidate_ids is not None:
            raise NearfarError("candidate_ids needs candidates; within a batch, ids is enough.")
        check_embeddings(embeddings, labels, "embeddings", "labels")
        if weights is not None and weights.shape != labels.shape:
            raise NearfarError(
                f"weights has shape {list(weights.shape)} but labels has {list(labels.shape)}; "
                "give one weight for each anchor."
            )
        with torch.autocast(embeddings.device.type, enabled=False):
            if candidates is None or candidate_labels is None:
                pairs = Pairs.within(
                    embeddings, labels, ids=ids, similarity=self.similarity, backend=self.backend
                )
            else:
                pairs = Pairs.between(
                    embeddings,
                    labels,
                    candidates,
                    candidate_labels,
                    ids=ids,
                    candidate_ids=candidate_ids,
                    similarity=self.similarity,
                    backend=self.backend,
                )
            self._warn_without_positives(pairs, labels)
            terms = self._terms(pairs if self.mining is None else self.mining(pairs))
            self.last = Statistics(_detached(terms), pairs.detach())
            value = terms.reduce(self.reduction, weights)
        return value.to(torch.promote_types(embeddings.dtype, torch.float32))

    def extra_repr(self) -> str:
        """Show every setting, so that a printed loss can be made again."""
        shown = {**self.settings, "mining": self.mining, "similarity": self.similarity}
        shown |= {"reduction": self.reduction, "backend": self.backend}
        return ", ".join([self.name, *(f"{key}={value!r}" for key, value in shown.items())])

    def _terms(self, pairs: Pairs) -> Terms:
        value = self._entry.function(pairs, **self.settings)
        if isinstance(value, Terms):
            return value
        valid = pairs.positive_count > 0
        if self._entry.needs == "either":
            valid = valid | (value != 0)
        return Terms(total=value, count=valid.to(value), active=(value != 0).to(value))

    def _warn_without_positives(self, pairs: Pairs, labels: Tensor) -> None:
        if self._warned or len(pairs.positives.anchor):
            return
        self._warned = True
        warnings.warn(
            f"this batch has no positive pair: its {len(labels)} labels all differ from those they are "
            "compared with. Set batch.images_per_class to 2 or more.",
            stacklevel=3,
        )


def create(
    name: str,
    *,
    mining: str | Mapping[str, Any] | Rule | None = None,
    similarity: Measure = "cosine",
    reduction: Reduction | None = None,
    backend: str = "auto",
    across_ranks: bool = True,
    **settings: Any,
) -> Loss:
    """Create a loss by name.

    Args:
        name: one of ``nearfar.losses.names()``.
        mining: a rule's name, a mapping such as ``{"name": "semi_hard", "margin": 0.1}``, or a rule; None
            takes all pairs. A rule's setting that the loss also has (``margin``) is the loss's unless given.
        similarity: "cosine" (embeddings are normalised here), "dot", "euclidean" or "squared_euclidean".
        reduction: "mean", "mean_valid", "mean_terms", "mean_active", "sum", "none", or None for the paper's
            own; see ``Terms.reduce``.
        backend: what computes it: "auto", "dense" or "reference".
        across_ranks: compare with the embeddings of all ranks, where torch.distributed is initialised.
        **settings: the loss's own hyper-parameters; see ``nearfar.losses.describe(name)``.

    Raises:
        NearfarError: if a name or a setting is unknown.
    """
    for word, value, known in [
        ("similarity", similarity, list(get_args(Measure))),
        ("reduction", reduction, [None, *get_args(Reduction)]),
    ]:
        if value not in known:
            options = [option for option in known if option is not None]
            raise NearfarError(
                f"{word} {value!r} is not one of {', '.join(options)}.{suggest(str(value), options)}"
            )
    choose(backend)
    complete = registry.complete(name, settings)
    rule = create_rule(mining, shared=complete)
    own = registry[name].reduction
    if own == "mean_active" and rule is not None:
        own = "mean_terms"  # what a rule has chosen is averaged whole, as in Hermans et al. and FaceNet
    return Loss(
        name,
        complete,
        mining=rule,
        similarity=similarity,
        reduction=own if reduction is None else reduction,
        backend=backend,
        across_ranks=across_ranks,
    )


def _detached(terms: Terms) -> Terms:
    return Terms(terms.total.detach(), terms.count.detach(), terms.active.detach())


def _ranks() -> int:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()
