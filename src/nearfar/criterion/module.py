"""The nn.Module around a loss function: from embeddings and labels to a scalar."""

from contextlib import nullcontext

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor
from torch.compiler import is_compiling

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
from nearfar.similarity.dense.matrix import DenseBlock, Lengths
from nearfar.similarity.dense.products import ordinary_lengths
from nearfar.similarity.stable import full_precision
from nearfar.similarity.tiled.block import TiledBlock


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
        if is_compiling() and not self._compiles(batch, memory):
            return self._as_it_is(batch, memory)
        return self.compared(batch, memory)

    def _is_small(self, x: Tensor, labels: Labels) -> bool:
        """Whether embeddings and classes fit each other, and all similarities fit into memory.

        What does not fit, or comes with more, goes the general way, which says what is wrong.
        """
        if not (self._plain and isinstance(x, Tensor) and isinstance(labels, Tensor)):
            return False
        given = x.shape, x.dtype, x.device, x.layout, labels.shape, labels.dtype, labels.device, self.backend
        w = self.proxies
        if w is not None:
            given += w.shape, self.training
        if self._depends:
            given += tuple(number.device for number in self.numbers)
        if is_compiling():
            return self._entry.compiles and self._fits(x, labels) and not self._among_ranks
        if given != self._small:
            if not self._fits(x, labels):
                return False
            self._small = given
        return not self._among_ranks

    @property
    def _among_ranks(self) -> bool:
        return self.across_ranks and world_size() > 1

    def _compiles(self, batch: Batch, memory: CrossBatchMemory | None) -> bool:
        """Whether ``torch.compile`` can take a call whole; else it leaves it as it is."""
        x, labels = batch.embeddings, batch.labels
        if memory is not None or self._among_ranks or not isinstance(labels, Tensor) or labels.ndim != 1:
            return False
        others = batch.candidates if self.proxies is None else self.proxies
        return (
            self._entry.compiles
            and choose(self.backend, len(x), len(x if others is None else others)) is not TiledBlock
        )

    @torch.compiler.disable(
        reason="a memory, ranks, tags, tiles and losses of unknown shapes run as they are"
    )
    def _as_it_is(self, batch: Batch, memory: CrossBatchMemory | None) -> Tensor:
        return self.compared(batch, memory)

    def _fits(self, x: Tensor, labels: Tensor) -> bool:
        if x.ndim != 2 or x.dtype not in FLOATS or x.layout != torch.strided or lacks_float64(x):
            return False
        if labels.ndim != 1 or labels.dtype not in WHOLE or len(x) != len(labels):
            return False
        w = x if self.proxies is None else self.proxies
        every = self.proxies is None or self.sample == 1 or not self.training
        fit = x.shape[1] == w.shape[1] and x.device == labels.device
        alike = fit and all(number.device == x.device for number in self.numbers)
        return every and alike and choose(self.backend, len(x), len(w)) is DenseBlock

    def _at_once(self, x: Float[Tensor, "n dim"], labels: Int[Tensor, " n"]) -> Shaped[Tensor, "..."]:
        """Return the loss of a small batch by itself, of classes: the same as ``compared``, straight away."""
        w = self.proxies
        judged, rows, length, other = self._judged(full_precision(x), w)
        self.notices.listen()
        kind = x.device.type
        with torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext():
            if w is None:
                parts = self._with_itself(rows, labels, length, judged)
            else:
                judged, parts = self._with_classes(rows, labels, w, (length, other), judged)
            value = parts[0].reduce(self.reduction, None, self.tilt)
            for part in parts[1:]:
                value = value + part.reduce(self.reduction, None, self.tilt)
        return judged.value(value).to(torch.float64 if x.dtype == torch.float64 else torch.float32)

    def _with_itself(
        self, rows: Tensor, labels: Tensor, length: Tensor | None, judged: Verdict
    ) -> tuple[Terms, ...]:
        """Return what each row contributes, compared with the others."""
        self.notices.look_for_missing([labels])
        view, measure = self._entry.view, self.similarity
        if view is not None:
            rows, measure = view(rows, measure)
        relation = Relation(SameClass(labels, labels), symmetric=True)
        pairs = Pairs.tabled(DenseBlock(rows, rows, measure, relation, None, (length, None)))
        mining, learned = self.mining, {}
        if self.learned:
            learned = {name: judged.rows(number) for name, number in self.learned.items()}
        parts = self._terms(pairs if mining is None else self._mined(pairs), None, learned)
        self.notices.look_for_positives(pairs.listed.some, rows.shape[0])
        if not is_compiling():
            self.__dict__["last"] = Statistics.of(parts, pairs, mining is not None, judged)
        return parts

    def _with_classes(
        self, rows: Tensor, labels: Tensor, proxies: Tensor, lengths: Lengths, judged: Verdict
    ) -> tuple[Verdict, tuple[Terms, ...]]:
        """Return what each row contributes, compared with classes; NaN is to come of labels of no class."""
        class_labels = self.classes_on(rows.device)
        assert class_labels is not None
        place, unknown = find(self.name, class_labels, labels)
        if unknown is not None:
            self.notices.look_for_unknown(labels, unknown, len(class_labels), self.name)
            judged = judged.unless(unknown)
            rows = judged.rows(rows)
        self.notices.look_for_missing([labels])
        met, vectors = Met(place, class_labels), judged.vectors(proxies)
        every = rows if self._entry.update is not None and self._steps else None
        return judged, self._against_classes(rows, vectors, met, None, every, None, judged, lengths)

    def _judged(
        self, x: Float[Tensor, "n dim"], w: Float[Tensor, "class dim"] | None
    ) -> tuple[Verdict, Tensor, Tensor | None, Tensor | None]:
        """Judge all that is given; return the rows, and lengths of both where they tell and are ordinary."""
        cosine = self.similarity == "cosine" and self._entry.view is None
        length = ordinary_lengths(x) if cosine else None
        other = ordinary_lengths(w) if cosine and w is not None else None
        left = [] if length is not None else [x]
        if self._depends:
            left += [number for number in self.numbers if number is not w or other is None]
        judged = judge(left) if left else FINITE
        return judged, judged.rows(x), length, other

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
