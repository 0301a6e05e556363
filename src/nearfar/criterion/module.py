"""The nn.Module around a loss function: names to arithmetic, labels to pairs, values to a scalar."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from nearfar.criterion import past
from nearfar.criterion.alone import Alone, Compared
from nearfar.criterion.arithmetic import Arithmetic
from nearfar.criterion.batch import Batch
from nearfar.criterion.classes import meet
from nearfar.criterion.finite import Verdict, judge
from nearfar.criterion.nearby import computed_nearby, lacks_float64
from nearfar.criterion.ranks.across import Across
from nearfar.criterion.ranks.digests import looked_at, warn_of_copies
from nearfar.criterion.ranks.everyone import meet_ranks, wanted
from nearfar.criterion.ranks.sharded import Sharded
from nearfar.criterion.recomputed import recomputed
from nearfar.criterion.refusals import (
    check_call,
    check_labels,
    no_memory,
    refuse_slopes,
    warn_without_positives,
)
from nearfar.criterion.weights import with_class_weights
from nearfar.distributed import rank, world_size
from nearfar.distributed.ring import Ring
from nearfar.inputs import Labels
from nearfar.memory import CrossBatchMemory
from nearfar.missing import warn_of_missing
from nearfar.similarity import choose
from nearfar.similarity.classes.ranks import Apart
from nearfar.similarity.tiled.block import TiledBlock


class Loss(Arithmetic):
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
        batch = Batch(embeddings, labels, candidates, candidate_labels, weights, ids, candidate_ids)
        if lacks_float64(embeddings):
            return computed_nearby(self, batch, memory)
        return self.compared(batch, memory)

    def compared(self, batch: Batch, memory: CrossBatchMemory | None) -> Shaped[Tensor, "..."]:
        """Return the loss of a batch, where it lies."""
        embeddings, kept = batch.embeddings, None
        if self.unlabelled is not None:
            batch, kept = batch.labelled(self.unlabelled)
        if self.shard is not None:
            self.shard.check(self.name)
        if self.across_ranks and world_size() > 1:
            across = self._meet_ranks(batch, memory)
            judged = across.everyone.verdict
            with across.same_draws(self._draws):
                result = self._value(across.everyone.batch, batch, memory, across, judged)
        else:
            check_call(self.name, self._entry, batch)
            judged = judge((batch.embeddings, batch.candidates, batch.weights, *self.numbers))
            result = self._value(judged.batch(batch), batch, memory, None, judged)
        if self.last is not None:
            self.last = replace(self.last, verdict=judged)
        result = judged.value(result)
        if kept is not None and self.reduction == "none" and self.weighs_anchors:
            result = result.new_zeros(len(embeddings)).index_copy(0, kept.to(result.device), result)
        return result.to(torch.promote_types(embeddings.dtype, torch.float32))

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
        self._looks = 0

    @property
    def reads_lengths(self) -> bool:
        """Whether it looks at the lengths of embeddings, so that unit length would take something away."""
        lengths = self._entry.lengths
        return bool(self.settings[lengths]) if isinstance(lengths, str) else lengths

    @property
    def weighs_anchors(self) -> bool:
        """Whether there is a value for each anchor, which weights can count."""
        return self._entry.proxies is None or self._entry.proxies.over == "anchor"

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

    @property
    def _steps(self) -> bool:
        """Whether a call is a step of training, which moves the numbers that run over batches."""
        return self.training and torch.is_grad_enabled() and not recomputed()

    @property
    def _draws(self) -> bool:
        """Whether a call takes random numbers."""
        seedless = self.mining is not None and self.mining.settings.get("seed", 0) is None
        return seedless or (self.sample < 1 and self.training)

    @property
    def numbers(self) -> list[Tensor]:
        """What its value depends on besides the batch: all that is learned, and settings that are tensors."""
        return [*self.parameters(), *(x for x in self.settings.values() if isinstance(x, Tensor))]

    @property
    def _separable(self) -> bool:
        """Whether each anchor's value is its own, so that ranks can share the anchors."""
        if self.shard is not None:
            return False
        mined = self.mining is None or self.mining.separable
        return self._entry.separable and mined and self.weighs_anchors

    def _meet_ranks(self, batch: Batch, memory: CrossBatchMemory | None) -> Across:
        """Put together what all ranks have given."""
        if self.proxies is not None:
            batch = replace(batch, ids=None)
        if self._entry.needs == "nothing" and isinstance(batch.embeddings, Tensor):
            batch = replace(batch, labels=batch.embeddings.new_zeros(len(batch.embeddings), dtype=torch.long))
        given = (batch.embeddings, batch.candidates)
        learns = [isinstance(x, Tensor) and x.requires_grad for x in given]
        learning = wanted(*learns, any(p.requires_grad for p in self.parameters()))

        def check() -> None:
            check_call(self.name, self._entry, batch)
            check_labels(batch)
            refuse_slopes(batch, self.settings, self.reduction, bool(learning))

        everyone = meet_ranks(
            batch,
            check,
            self.numbers,
            loss=self.name,
            sharded=self.shard is not None,
            training=self.training,
            memory=memory,
            learning=learning,
            weights=self._own_weights() if looked_at(self._meetings) else None,
        )
        self._meetings += 1
        if rank() == 0:
            warn_of_copies(everyone.told, self.name, self._told)
        stored = memory.bytes_to_gather if isinstance(memory, CrossBatchMemory) else 0
        return Across.of(everyone, self._separable, self.proxies is None, self.weighs_anchors, stored)

    def _own_weights(self) -> list[Tensor]:
        """The weights that all ranks should have alike: not those of classes that are shared out."""
        return [] if self.shard is not None else list(self.parameters())

    def _value(
        self,
        batch: Batch,
        given: Batch,
        memory: CrossBatchMemory | None,
        across: Across | None,
        judged: Verdict,
    ) -> Tensor:
        """Return the loss of a batch that has been checked; where it was not finite, any number.

        Args:
            given: this rank's, as it was given: a memory leaves rows out that are not finite.
        """
        labels, (learning, again) = batch.labels, past.meets(memory, self.training)
        class_labels = self.classes_on(batch.embeddings.device)
        everywhere = meet(self.name, class_labels, labels, self.sample if self.training else 1.0)
        self._look_for_missing(batch)
        met = everywhere
        if across is not None and self.shard is not None and everywhere is not None:
            met = self.shard.here(everywhere)
        every = batch.embeddings
        counts = None if across is None or not past.dealt_out(memory) else across.everyone.counts
        remembers = memory is not None and counts is None
        if across is not None and (remembers or self._entry.update is not None):
            every = across.embeddings
        stored = given.embeddings if across is None or not remembers else across.of_all(given.embeddings)
        moving = every if self._steps else None
        comparisons = past.recall(
            memory,
            stored,
            labels,
            batch.candidates,
            batch.ids,
            refusal=no_memory(self.name, self._entry),
            learning=learning,
            again=again,
            counts=counts,
        )
        by_class = met is not None and not self.weighs_anchors
        counted = met.labels if met is not None and by_class else labels
        weights = with_class_weights(None if by_class else batch.weights, self.class_weights, counted)
        n = len(every) if across is None else sum(across.everyone.counts)
        known = batch
        if self._entry.needs == "nothing":
            known = replace(batch, labels=torch.arange(n, device=batch.embeddings.device))
        rows = None if across is None else across.rows
        ahead = across is not None
        if across is None:
            others = next(x for x in (self.proxies, batch.candidates, every) if x is not None)
            width = len(others) + max(len(recalled.stored) if recalled else 0 for _, recalled in comparisons)
            ahead = self._ahead(weights) and choose(self.backend, n, width) is TiledBlock
        elif not by_class:
            weights = weights if weights is None or rows is None else weights[rows]
        if not ahead:
            # The backward pass is still to come, and by then the memory has taken in this batch.
            comparisons = [(share, recalled and recalled.copied()) for share, recalled in comparisons]

        def compute(
            anchors: Tensor, others: Tensor | Ring | Apart | None, learned: Sequence[Tensor]
        ) -> Compared:
            if met is not None and self.proxies is not None:
                apart = others if isinstance(others, Apart) else None
                return [(1.0, self._against_classes(anchors, learned[0], met, rows, moving, apart, judged))]
            assert not isinstance(others, Apart)
            own = dict(zip(self.learned, learned, strict=True))
            return [
                (share, self._parts(anchors, others, known, met, own, recalled, rows, n))
                for share, recalled in comparisons
            ]

        parameters = [
            *(judged.vectors(x) for x in (self.proxies,) if x is not None),
            *(judged.rows(x) for x in self.learned.values()),
        ]
        with torch.autocast(every.device.type, enabled=False):
            call = Alone(batch, ahead) if across is None else across
            if across is not None and self.shard is not None:
                assert everywhere is not None
                assert met is not None
                call = Sharded(across, self.shard, everywhere, met, by_class)
            result, listed = call.value(
                compute, parameters, self.reduction, weights, self.tilt, lambda: self._listed
            )
        if memory is not None and learning and isinstance(labels, Tensor):
            memory.take_in(stored, labels, batch.ids, counts)
        if n and not listed:
            self._tell_of_no_positive(n)
        return result

    def _tell_of_no_positive(self, n: int) -> None:
        if not self._warned and self._entry.needs != "nothing":
            self._warned = True
            if not self.across_ranks or rank() == 0:
                warn_without_positives(n)

    def _look_for_missing(self, batch: Batch) -> None:
        """Warn once of labels that say "missing"; on a device that is to be waited for, look a few times."""
        labels = [x for x in (batch.labels, batch.candidate_labels) if isinstance(x, Tensor) and x.ndim == 1]
        if self.unlabelled is not None or self._looks <= 0 or not labels or not self.looks_at_labels:
            return
        self._looks -= labels[0].device.type != "cpu"
        found = torch.cat(labels)
        if rank() == 0 and warn_of_missing(found, "are taken as one class", "the loss", stacklevel=5):
            self._looks = 0

    def _ahead(self, weights: Tensor | None) -> bool:
        """Whether the gradient can be computed ahead: of a scalar, with nothing else to learn."""
        others = [weights, *self.settings.values()]
        return self.reduction != "none" and not any(isinstance(x, Tensor) and x.requires_grad for x in others)
