"""The nn.Module around a loss function: names to arithmetic, labels to pairs, values to a scalar."""

import warnings
from collections.abc import Mapping, Sequence
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
        proxies: learned vectors [class, dim] that embeddings are compared with, or None.
        last: statistics of the last batch, or None before the first.
    """

    proxy_labels: Tensor

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
        proxies: Float[Tensor, "class dim"] | None = None,
        proxy_labels: Int[Tensor, " class"] | None = None,
    ) -> None:
        super().__init__()
        self.proxies = None if proxies is None else nn.Parameter(proxies)
        self.register_buffer("proxy_labels", proxy_labels)
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
        if self.proxies is not None:
            candidates, candidate_labels = self._proxies(labels, candidates)
            ids = None
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
            self.last = Statistics(_detached(terms), pairs.detach(), self.mining is not None)
            value = terms.reduce(self.reduction, weights)
        return value.to(torch.promote_types(embeddings.dtype, torch.float32))

    def extra_repr(self) -> str:
        """Show every setting, so that a printed loss can be made again."""
        shown = {**self.settings, "mining": self.mining, "similarity": self.similarity}
        shown |= {"reduction": self.reduction, "backend": self.backend}
        return ", ".join([self.name, *(f"{key}={value!r}" for key, value in shown.items())])

    def _proxies(self, labels: Tensor, candidates: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the candidates of a loss with proxies, where each label has one."""
        if candidates is not None:
            raise NearfarError(f"{self.name} compares with its own proxies; call it without candidates.")
        unknown = labels[~torch.isin(labels, self.proxy_labels)]
        if len(unknown):
            raise NearfarError(
                f"label {int(unknown[0])} has no proxy; {self.name} was created for "
                f"{len(self.proxy_labels)} classes. Give all labels of the training set as classes=…"
            )
        assert self.proxies is not None
        return self.proxies, self.proxy_labels

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
    classes: int | Sequence[int] | Int[Tensor, " n"] | None = None,
    dim: int | None = None,
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
        classes: for a loss with proxies, the labels of the training set (repeats are fine), or their count
            when they are 0, 1, 2, …
        dim: for a loss with proxies, the dimension of the embeddings.
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
    proxies, proxy_labels = _create_proxies(name, classes, dim)
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
        proxies=proxies,
        proxy_labels=proxy_labels,
    )


def _create_proxies(
    name: str, classes: int | Sequence[int] | Tensor | None, dim: int | None
) -> tuple[Tensor | None, Tensor | None]:
    """Draw one proxy of about unit length for each class, or none for a loss that has none."""
    if not registry[name].proxies:
        return None, None
    if classes is None or dim is None:
        raise NearfarError(
            f"{name} learns a proxy for each class; create it with classes=… (the training labels, or how "
            "many there are) and dim=… (of the embeddings)."
        )
    labels = torch.arange(classes) if isinstance(classes, int) else torch.as_tensor(classes).unique()
    if len(labels) < 2:
        raise NearfarError(f"{name} needs two classes or more; got {len(labels)}.")
    return torch.randn(len(labels), dim) / dim**0.5, labels.long()


def _detached(terms: Terms) -> Terms:
    return Terms(terms.total.detach(), terms.count.detach(), terms.active.detach())


def _ranks() -> int:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()
