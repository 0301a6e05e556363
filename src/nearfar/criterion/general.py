"""A call of a loss in general: against candidates, a memory, the rows of all ranks, in memory or in tiles."""

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Shaped
from torch import Tensor

from nearfar.criterion import past
from nearfar.criterion.alone import Alone, Compared
from nearfar.criterion.arithmetic import Arithmetic
from nearfar.criterion.batch import Batch
from nearfar.criterion.classes import meet
from nearfar.criterion.finite import Verdict, judge
from nearfar.criterion.ranks.across import Across
from nearfar.criterion.ranks.digests import looked_at, warn_of_copies
from nearfar.criterion.ranks.everyone import meet_ranks, wanted
from nearfar.criterion.ranks.sharded import Sharded
from nearfar.criterion.refusals import check_call, check_labels, check_place, no_memory, refuse_slopes
from nearfar.criterion.weights import with_class_weights
from nearfar.distributed import rank, world_size
from nearfar.distributed.ring import Ring
from nearfar.memory import CrossBatchMemory
from nearfar.similarity import choose
from nearfar.similarity.classes.ranks import Apart
from nearfar.similarity.stable import at_once
from nearfar.similarity.tiled.block import TiledBlock


class General(Arithmetic):
    """The call that is right for everything; ``Loss`` has a shorter one for a small batch by itself."""

    def compared(self, batch: Batch, memory: CrossBatchMemory | None) -> Shaped[Tensor, "..."]:
        """Return the loss of a batch, where it lies."""
        embeddings, kept = batch.embeddings, None
        self.notices.listen()
        if self.unlabelled is not None:
            batch, kept = batch.labelled(self.unlabelled)
        if self.shard is not None:
            self.shard.check(self.name)
        if self.across_ranks and world_size() > 1:
            across = self._meet_ranks(batch, memory)
            judged = self._weighed(across.everyone.verdict, across.everyone.batch)
            with across.same_draws(self._draws):
                result = self._value(across.everyone.batch, batch, memory, across, judged)
        else:
            check_call(self.name, self._entry, batch)
            check_place(self.parameters(), self.settings, batch.embeddings.device)
            judged = judge((batch.embeddings, batch.candidates, batch.weights, *self.numbers))
            judged = self._weighed(judged, batch)
            result = self._value(judged.batch(batch), batch, memory, None, judged)
        if self.last is not None:
            self.last = replace(self.last, verdict=judged)
        result = judged.value(result)
        if kept is not None and self.reduction == "none" and self.weighs_anchors:
            result = result.new_zeros(len(embeddings)).index_copy(0, kept.to(result.device), result)
        return result.to(torch.promote_types(embeddings.dtype, torch.float32))

    def _weighed(self, judged: Verdict, batch: Batch) -> Verdict:
        """Return the verdict; of wrong weights that nobody could see at once NaN is to come."""
        weights = batch.weights
        if weights is None or at_once(weights):
            return judged
        self.notices.look_for_wrong_weights(weights)
        return judged.unless(weights < 0)

    @property
    def _separable(self) -> bool:
        """Whether each anchor's value is its own, so that ranks can share the anchors."""
        if self.shard is not None:
            return False
        mined = self.mining is None or self.mining.separable
        return self._entry.separable and mined and self.weighs_anchors

    @property
    def _draws(self) -> bool:
        """Whether a call takes random numbers."""
        seedless = self.mining is not None and self.mining.settings.get("seed", 0) is None
        return seedless or (self.sample < 1 and self.training)

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
            check_place(self.parameters(), self.settings, batch.embeddings.device)
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
        if self._entry.needs != "nothing" and (not self.across_ranks or rank() == 0):
            self.notices.look_for_positives(listed, n)
        return result

    def _look_for_missing(self, batch: Batch) -> None:
        if self._entry.needs != "nothing" and self.unlabelled is None and rank() == 0:
            told = (batch.labels, batch.candidate_labels)
            self.notices.look_for_missing([x for x in told if isinstance(x, Tensor) and x.ndim == 1])

    def _ahead(self, weights: Tensor | None) -> bool:
        """Whether the gradient can be computed ahead: of a scalar, with nothing else to learn."""
        others = [weights, *self.settings.values()]
        return self.reduction != "none" and not any(isinstance(x, Tensor) and x.requires_grad for x in others)
