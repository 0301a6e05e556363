"""The nn.Module around a loss function: from embeddings and labels to a scalar."""

from contextlib import nullcontext

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nearfar.criterion.batch import Batch
from nearfar.criterion.classes import Met, find
from nearfar.criterion.finite import FINITE, Verdict, judge
from nearfar.criterion.general import General
from nearfar.criterion.nearby import computed_nearby, lacks_float64
from nearfar.criterion.statistics import Statistics
from nearfar.distributed import world_size
from nearfar.inputs import FLOATS, WHOLE, Labels
from nearfar.losses.parts.terms import Terms
from nearfar.memory import CrossBatchMemory
from nearfar.pairs import Pairs
from nearfar.similarity import Relation, SameClass, choose
from nearfar.similarity.dense.matrix import DenseBlock
from nearfar.similarity.dense.products import ordinary_lengths
from nearfar.similarity.stable import full_precision


class Loss(General):
    """A loss over pairs of embeddings; made by ``nearfar.losses.create``.

    Attributes:
        name: the loss function's name.
        settings: its hyper-parameters, defaults included.
        proxies: learned vectors that embeddings are compared with, or None: [class, dim], or
            [class · centre, dim], where the centres of class c are the rows c · centres, c · centres + 1, ….
        shard: the run of classes that ``proxies`` are of, where ranks share the classes out; else None.
        learned: settings that are trained with the network, by name: [1], or [class] for one of each.
        last: statistics of the last batch, or None before the first.
    """

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
            memory: embeddings of past steps, compared with as well; in training it takes in this batch.

        Returns:
            A scalar, or one value per anchor with ``reduction="none"``. Where any number given or learned is
            NaN or infinite, all of it is NaN, on all ranks, and so is the gradient.

        Raises:
            NearfarError: if shapes or types do not fit.
        """
        alone = candidates is None and candidate_labels is None and candidate_ids is None and memory is None
        if alone and weights is None and ids is None and self._is_small(embeddings, labels):
            return self._at_once(embeddings, labels)  # pyrefly: ignore[bad-argument-type]
        batch = Batch(embeddings, labels, candidates, candidate_labels, weights, ids, candidate_ids)
        if lacks_float64(embeddings):
            return computed_nearby(self, batch, memory)
        return self.compared(batch, memory)

    def _is_small(self, x: Tensor, labels: Labels) -> bool:
        """Whether embeddings and classes fit each other, and all similarities fit into memory.

        What does not fit, or comes with more, goes the general way, which says what is wrong.
        """
        return (
            self._plain
            and isinstance(x, Tensor)
            and isinstance(labels, Tensor)
            and x.ndim == 2
            and labels.ndim == 1
            and x.dtype in FLOATS
            and labels.dtype in WHOLE
            and len(x) == len(labels)
            and x.device == labels.device
            and x.layout == torch.strided
            and self._fits(x)
            and not (self.across_ranks and world_size() > 1)
            and not lacks_float64(x)
        )

    def _fits(self, x: Float[Tensor, "n dim"]) -> bool:
        w = x if self.proxies is None else self.proxies
        every = self.proxies is None or self.sample == 1 or not self.training
        fit = x.shape[1] == w.shape[1] and all(number.device == x.device for number in self.numbers)
        return every and fit and choose(self.backend, len(x), len(w)) is DenseBlock

    def _at_once(self, x: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]) -> Shaped[Tensor, "..."]:
        """Return the loss of a small batch by itself, of classes: the same as ``compared``, straight away."""
        judged, rows, length = self._judged(full_precision(x))
        self.notices.listen()
        with torch.autocast(x.device.type, enabled=False) if _casts(x) else nullcontext():
            if self.proxies is None:
                parts = self._with_itself(rows, labels, length, judged)
            else:
                judged, parts = self._with_classes(rows, labels, length, judged)
            values = [part.reduce(self.reduction, None, self.tilt) for part in parts]
            value = judged.value(values[0] if len(values) == 1 else torch.stack(values).sum(0))
        return value.to(torch.float64 if x.dtype == torch.float64 else torch.float32)

    def _with_itself(
        self, rows: Tensor, labels: Tensor, length: Tensor | None, judged: Verdict
    ) -> tuple[Terms, ...]:
        """Return what each row contributes, compared with the others."""
        self.notices.look_for_missing([labels])
        view, measure = self._entry.view, self.similarity
        if view is not None:
            rows, measure = view(rows, measure)
        relation = Relation.within(SameClass(labels, labels))
        pairs = Pairs.tabled(DenseBlock(rows, rows, measure, relation, length=length))
        learned = {name: judged.rows(number) for name, number in self.learned.items()}
        parts = self._terms(self._mined(pairs), None, learned)
        self.notices.look_for_positives(pairs.listed.some, len(rows))
        self.__dict__["last"] = Statistics.of(parts, pairs, self.mining is not None, judged)
        return parts

    def _with_classes(
        self, rows: Tensor, labels: Tensor, length: Tensor | None, judged: Verdict
    ) -> tuple[Verdict, tuple[Terms, ...]]:
        """Return what each row contributes, compared with classes; NaN is to come of labels of no class."""
        class_labels = self.classes_on(rows.device)
        assert class_labels is not None
        assert self.proxies is not None
        place, unknown = find(self.name, class_labels, labels)
        if unknown is not None:
            self.notices.look_for_unknown(labels, unknown, len(class_labels), self.name)
            judged = judged.unless(unknown)
            rows = judged.rows(rows)
        self.notices.look_for_missing([labels])
        met, vectors = Met(place, class_labels), judged.vectors(self.proxies)
        every = rows if self._entry.update is not None and self._steps else None
        return judged, self._against_classes(rows, vectors, met, None, every, None, judged, length)

    def _judged(self, x: Float[Tensor, "n dim"]) -> tuple[Verdict, Tensor, Float[Tensor, "n 1"] | None]:
        """Judge what is given, and return it with its lengths, where these tell and are ordinary numbers."""
        numbers, tells = self.numbers, self.similarity == "cosine" and self._entry.view is None
        length = ordinary_lengths(x) if tells else None
        if length is not None and not numbers:
            return FINITE, x, length
        judged = judge((*numbers,) if length is not None else (x, *numbers))
        return judged, judged.rows(x), length

    @property
    def compares_with_the_batch(self) -> bool:
        """Whether candidates are the batch (or others given), and not classes or nothing at all."""
        return self.proxies is None and self._entry.needs != "nothing"

    @property
    def looks_at_labels(self) -> bool:
        """Whether labels matter."""
        return self._entry.needs != "nothing"

    def warned_of_missing(self) -> None:
        """Leave it to another loss of the same batches to warn of labels that are missing."""
        self.notices.of_missing = False

    @property
    def reads_lengths(self) -> bool:
        """Whether it looks at the lengths of embeddings, so that unit length would take something away."""
        lengths = self._entry.lengths
        return bool(self.settings[lengths]) if isinstance(lengths, str) else lengths

    def extra_repr(self) -> str:
        """Show every setting, so that a printed loss can be made again."""
        shown = {**self.settings, "mining": self.mining, "similarity": self.similarity}
        shown |= {"reduction": self.reduction, "backend": self.backend}
        if self.sample < 1:
            shown["sample"] = self.sample
        if self.shard is not None:
            shown["sharded"] = True
        if self.reduction == "tilted":
            shown["tilt"] = self.tilt
        if self.unlabelled is not None:
            shown["unlabelled"] = self.unlabelled
        return ", ".join([self.name, *(f"{key}={value!r}" for key, value in shown.items())])


def _casts(x: Tensor) -> bool:
    return torch.is_autocast_enabled(x.device.type)
