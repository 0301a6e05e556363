"""The nn.Module around a loss function: names to arithmetic, labels to pairs, values to a scalar."""

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nearfar.errors import NearfarError
from nearfar.inputs import Labels, check_embeddings, relate, shown
from nearfar.losses.ahead import with_gradient
from nearfar.losses.registry import registry
from nearfar.losses.terms import Reduction, Statistics, Terms
from nearfar.mining import Rule
from nearfar.pairs import Pairs
from nearfar.similarity import Measure, Relation, Relevance, choose
from nearfar.similarity.threads import plainly
from nearfar.similarity.tiled import TiledBlock

MOST_POSITIVES = 2**22
"""Positive pairs that are listed at once; batches with more are taken some anchors at a time."""


class Loss(nn.Module):
    """A loss over pairs of embeddings; made by ``nearfar.losses.create``.

    Attributes:
        name: the loss function's name.
        settings: its hyper-parameters, defaults included.
        proxies: learned vectors [class, dim] that embeddings are compared with, or None.
        learned: settings that are trained with the network, by name; [class] where one was asked for each.
        last: statistics of the last batch, or None before the first.
    """

    class_labels: Tensor | None

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
        learned: Mapping[str, Tensor] | None = None,
        class_labels: Int[Tensor, " class"] | None = None,
    ) -> None:
        super().__init__()
        self.proxies = None if proxies is None else nn.Parameter(proxies)
        self.learned: nn.ParameterDict | dict[str, Tensor] = nn.ParameterDict(learned) if learned else {}
        self.register_buffer("class_labels", class_labels)
        self.name = name
        self.settings = dict(settings)
        self.mining = mining
        self.similarity: Measure = similarity
        self.reduction: Reduction = reduction
        self.backend = backend
        self.across_ranks = across_ranks
        self.last: Statistics | None = None
        self._entry = registry[name]
        self._warned = self._without_positives = False

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
    ) -> Shaped[Tensor, "..."]:
        """Compare a batch with itself, or with ``candidates``, and return the loss.

        Args:
            embeddings: one row per item, any length (normalised here for the cosine). Half precision is
                computed in float32.
            labels: class of each row (rows of equal label are positives), tags as multi-hot rows (a shared
                tag makes a positive), or ``Relevance``.
            candidates, candidate_labels: what to compare with instead of the batch itself.
            weights: how much each anchor counts (>= 0).
            ids, candidate_ids: two rows with the same id are never compared.

        Returns:
            A scalar, or one value per anchor with ``reduction="none"``.

        Raises:
            NearfarError: if shapes or types do not fit.
        """
        if (candidates is None) != (candidate_labels is None) and not isinstance(labels, Relevance):
            raise NearfarError("candidates and candidate_labels go together; give both or neither.")
        if self.across_ranks and _ranks() > 1:
            raise NearfarError(
                f"{_ranks()} ranks are running, and losses across ranks are not built yet; "
                "create the loss with across_ranks=False to compare within each rank."
            )
        classes = self._classes(labels)
        if self.proxies is not None:
            if candidates is not None:
                raise NearfarError(f"{self.name} compares with its own proxies; call it without candidates.")
            candidates, candidate_labels, ids = self.proxies, self.class_labels, None
        if candidates is None and candidate_ids is not None:
            raise NearfarError("candidate_ids needs candidates; within a batch, ids is enough.")
        n = check_embeddings(embeddings, "embeddings")
        if candidates is not None:
            check_embeddings(candidates, "candidates")
        if weights is not None:
            _check_weights(weights, n)
        labels_and_ids = (labels, candidate_labels, ids, candidate_ids)

        def value(inputs: Sequence[Tensor]) -> Tensor:
            anchors, *rest = inputs
            others = rest.pop(0) if candidates is not None else None
            learned = dict(zip(self.learned, rest, strict=True))
            parts = self._parts(anchors, others, labels_and_ids, classes, learned)
            return torch.stack([part.reduce(self.reduction, weights) for part in parts]).sum(0)

        inputs = [embeddings, *([] if candidates is None else [candidates]), *self.learned.values()]
        others = embeddings if candidates is None else candidates
        with torch.autocast(embeddings.device.type, enabled=False):
            if self._ahead(weights) and choose(self.backend, n, len(others)) is TiledBlock:
                with plainly():
                    result = with_gradient(value, inputs)
            else:
                result = value(inputs)
        if not self._warned and self._without_positives:
            self._warned = True
            warnings.warn(
                f"this batch has no positive pair: its {n} labels all differ from those they are compared "
                "with. Set batch.images_per_class to 2 or more.",
                stacklevel=4,
            )
        return result.to(torch.promote_types(embeddings.dtype, torch.float32))

    def extra_repr(self) -> str:
        """Show every setting, so that a printed loss can be made again."""
        shown = {**self.settings, "mining": self.mining, "similarity": self.similarity}
        shown |= {"reduction": self.reduction, "backend": self.backend}
        return ", ".join([self.name, *(f"{key}={value!r}" for key, value in shown.items())])

    def _parts(
        self,
        embeddings: Tensor,
        candidates: Tensor | None,
        labels_and_ids: tuple[Labels, Tensor | None, Tensor | None, Tensor | None],
        classes: Tensor | None,
        learned: Mapping[str, Tensor],
    ) -> tuple[Terms, ...]:
        """Return what each anchor contributes, and note the statistics of the batch."""
        view = self._entry.view or (lambda x, similarity: (x, similarity))
        anchors, measure = view(embeddings, self.similarity)
        m = None
        if candidates is None:
            candidates = anchors
        else:
            m = len(candidates)
            candidates, _ = view(candidates, self.similarity)
        labels, candidate_labels, ids, candidate_ids = labels_and_ids
        relation = relate(len(anchors), labels, m, candidate_labels, ids=ids, candidate_ids=candidate_ids)
        size = self._chunk(relation, len(anchors) * len(candidates))
        pairs = None
        if size is None:
            pairs = Pairs.of(anchors, candidates, relation, measure, self.backend)
            self._without_positives = not len(pairs.listed.anchor)
            mined = pairs if self.mining is None else self.mining(pairs)
            parts = self._terms(mined, classes, learned)
        else:
            parts = self._by_chunks(anchors, candidates, relation, measure, classes, learned, size)
        self.last = Statistics(_detached(parts), pairs and pairs.detach(), self.mining is not None)
        return parts

    def _chunk(self, relation: Relation, comparisons: int) -> int | None:
        """How many anchors to take at a time, where the positives of all are too many to list."""
        if comparisons <= MOST_POSITIVES or not self._entry.separable:
            return None
        if self.mining is not None and not self.mining.separable:
            return None
        positives = relation.kinship.count()
        if positives <= MOST_POSITIVES:
            return None
        anchors = relation.kinship.order()[0]
        return max(1, len(anchors) * MOST_POSITIVES // positives)

    def _by_chunks(
        self,
        anchors: Tensor,
        candidates: Tensor,
        relation: Relation,
        measure: Measure,
        classes: Tensor | None,
        learned: Mapping[str, Tensor],
        size: int,
    ) -> tuple[Terms, ...]:
        """Compute some anchors at a time and, in the backward pass, once more: nothing of them is kept."""

        def chunk(
            anchors: Tensor, candidates: Tensor, rows: Tensor, learned: Mapping[str, Tensor]
        ) -> tuple[Tensor, ...]:
            pairs = Pairs.of(anchors[rows], candidates, relation.take(rows), measure, self.backend)
            mined = pairs if self.mining is None else self.mining(pairs)
            parts = self._terms(mined, None if classes is None else classes[rows], learned)
            return tuple(x for part in parts for x in (part.total, part.count, part.active))

        columns, start = [], torch.get_rng_state()
        for rows in torch.arange(len(anchors), device=anchors.device).split(size):
            torch.set_rng_state(start)  # what a rule draws once for a batch is the same for all its anchors
            columns.append(checkpoint(chunk, anchors, candidates, rows, learned, use_reentrant=False))
        whole = [torch.cat(column) for column in zip(*columns, strict=True)]
        return tuple(Terms(*whole[k : k + 3]) for k in range(0, len(whole), 3))

    def _classes(self, labels: Labels) -> Tensor | None:
        """Return the place of each label among the classes the loss was created for, if it was for some."""
        if self.class_labels is None:
            return None
        if not isinstance(labels, Tensor) or labels.ndim != 1:
            raise NearfarError(f"{self.name} was created with classes=…, so that labels must be classes [n].")
        place = torch.searchsorted(self.class_labels, labels).clamp_max(len(self.class_labels) - 1)
        unknown = labels[self.class_labels[place] != labels]
        if len(unknown):
            raise NearfarError(
                f"label {int(unknown[0])} is not among the {len(self.class_labels)} classes that {self.name} "
                "was created for. Give all labels of the training set as classes=…"
            )
        return place

    def _terms(
        self, pairs: Pairs, classes: Tensor | None, learned: Mapping[str, Tensor]
    ) -> tuple[Terms, ...]:
        own = {
            name: value[classes] if value.ndim and classes is not None else value
            for name, value in learned.items()
        }
        value = self._entry.function(pairs, **{**self.settings, **own})
        if isinstance(value, tuple):
            return value
        if isinstance(value, Terms):
            return (value,)
        valid = pairs.positive_count > 0
        if self._entry.needs == "either":
            valid = valid | (value != 0)
        return (Terms(total=value, count=valid.to(value), active=(value != 0).to(value)),)

    def _ahead(self, weights: Tensor | None) -> bool:
        """Whether the gradient can be computed ahead: of a scalar, with nothing else to learn."""
        others = [weights, *self.settings.values()]
        return self.reduction != "none" and not any(isinstance(x, Tensor) and x.requires_grad for x in others)


def _check_weights(weights: Any, n: int) -> None:
    if not isinstance(weights, Tensor) or weights.shape != (n,):
        raise NearfarError(
            f"weights is {shown(weights) if isinstance(weights, Tensor) else type(weights).__name__} "
            f"but there are {n} embeddings; give one weight for each anchor, as a tensor."
        )
    if not bool((weights >= 0).all()):
        wrong = float(weights.detach()[~(weights >= 0)][0])
        raise NearfarError(f"weights must not be negative; got {wrong:g}. Give 0 to leave an anchor out.")


def _detached(parts: tuple[Terms, ...]) -> Terms:
    return Terms(
        *(
            sum((getattr(part, field).detach() for part in parts[1:]), getattr(parts[0], field).detach())
            for field in ("total", "count", "active")
        )
    )


def _ranks() -> int:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return 1
    return torch.distributed.get_world_size()
