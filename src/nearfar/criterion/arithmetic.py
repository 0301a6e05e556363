"""What a loss computes once rows, labels and candidates are put together: pairs, mined, into terms."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.compiler import is_compiling

from nearfar.criterion.batch import Batch
from nearfar.criterion.chunks import by_chunks
from nearfar.criterion.class_weights import ClassWeights
from nearfar.criterion.classes import Met
from nearfar.criterion.comparison import among_own, compare
from nearfar.criterion.finite import Verdict
from nearfar.criterion.fixed import keep_fixed
from nearfar.criterion.notices import Notices
from nearfar.criterion.one_number import as_number, load_scalars
from nearfar.criterion.ranks.shard import Shard
from nearfar.criterion.ranks.shard_state import load_own, save_whole
from nearfar.criterion.recomputed import recomputed
from nearfar.criterion.statistics import Statistics
from nearfar.distributed.ring import Ring
from nearfar.losses.parts.proxies import against_classes
from nearfar.losses.parts.registry import Needs, registry
from nearfar.losses.parts.terms import Reduction, Terms, Values
from nearfar.memory.recalled import Recalled
from nearfar.mining import Rule
from nearfar.pairs import Pairs
from nearfar.similarity import Measure, Relation
from nearfar.similarity.classes.ranks import Apart
from nearfar.similarity.dense.matrix import Lengths
from nearfar.similarity.stable import taken

MOST_POSITIVES = 2**22
"""Positive pairs that are listed at once; batches with more are taken some anchors at a time."""


class Arithmetic(nn.Module):
    """The settings of a loss, and its arithmetic; see ``Loss``."""

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
        sample: float = 1.0,
        class_weights: ClassWeights | None = None,
        tilt: float = 1.0,
        shard: Shard | None = None,
        unlabelled: int | None = None,
    ) -> None:
        super().__init__()
        self.shard = shard
        if shard is not None:
            self.register_state_dict_post_hook(save_whole)
            self.register_load_state_dict_pre_hook(load_own)
        self.proxies = None if proxies is None else nn.Parameter(proxies)
        self.learned: nn.ParameterDict | dict[str, Tensor] = nn.ParameterDict(learned) if learned else {}
        self.register_load_state_dict_pre_hook(load_scalars)
        keep_fixed(self, "class_labels", class_labels)
        self.class_weights = class_weights
        self.sample, self.tilt = sample, tilt
        self.name = name
        self.settings = dict(settings)
        self._tensors = [x for x in self.settings.values() if isinstance(x, Tensor)]
        self._depends = proxies is not None or bool(learned) or bool(self._tensors)
        self.mining = mining
        self.similarity: Measure = similarity
        self.reduction: Reduction = reduction
        self.backend = backend
        self.across_ranks = across_ranks
        self.last: Statistics | None = None
        self._entry = registry[name]
        for key, start in self._entry.running.items():
            self.register_buffer(f"running_{key}", torch.tensor(start))
        self.unlabelled = unlabelled
        self._meetings = 0
        self._told: set[str] = set()
        self.notices = Notices()
        self._listed: bool | Tensor = True
        alone = shard is None if proxies is not None else class_labels is None
        weighs = class_weights is not None or unlabelled is not None
        self._plain = alone and not weighs and self._entry.needs != "nothing"
        self._small: tuple[object, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Copy and pickle without the last batch, which belongs to no copy."""
        return {**self.__dict__, "last": None}

    @property
    def weighs_anchors(self) -> bool:
        """Whether there is a value for each anchor, which weights can count."""
        return self._entry.proxies is None or self._entry.proxies.over == "anchor"

    @property
    def numbers(self) -> list[Tensor]:
        """What its value depends on besides the batch: all that is learned, and settings that are tensors."""
        own = [] if self.proxies is None else [self.proxies]
        return [*own, *self.learned.values(), *self._tensors]

    @property
    def _steps(self) -> bool:
        """Whether a call is a step of training, which moves the numbers that run over batches."""
        return self.training and torch.is_grad_enabled() and not recomputed()

    def classes_on(self, device: torch.device) -> Tensor | None:
        """Return the labels of the classes, where a batch is; None where it was created for none."""
        known = self.class_labels
        if known is not None and known.device != device:
            self.class_labels = known = known.to(device)
        return known

    def _parts(
        self,
        embeddings: Tensor,
        others: Tensor | Ring | None,
        batch: Batch,
        met: Met | None,
        learned: Mapping[str, Tensor],
        recalled: Recalled | None,
        rows: Tensor | None,
        n: int,
    ) -> tuple[Terms, ...]:
        """Return what each anchor contributes, and note the statistics of the batch.

        Args:
            others: what to compare with, where it is not the anchors themselves.
            rows: which of the batch's ``n`` rows the anchors are; None for all.
        """
        classes = None if met is None else met.place if rows is None else met.place[rows]
        compared = compare(
            embeddings,
            others,
            batch,
            rows,
            n,
            recalled,
            self._entry.view,
            self.similarity,
            self.backend,
        )
        size, pairs = self._chunk(compared.relation, len(embeddings), compared.width), None
        self._listed = True
        if size is None:
            pairs = compared.pairs()
            self._listed = pairs.listed.some
            parts = self._terms(self._mined(pairs), classes, learned)
        else:

            def chunk(some: Tensor, inputs: Sequence[Tensor]) -> tuple[Terms, ...]:
                pairs = compared.some(some, *inputs[:2])
                own = dict(zip(learned, inputs[2:], strict=True))
                return self._terms(self._mined(pairs), None if classes is None else classes[some], own)

            inputs = [compared.anchors, compared.candidates, *learned.values()]
            parts = by_chunks(chunk, inputs, len(embeddings), size)
        if compared.ring is not None or recalled is not None:
            # What comes by or is stored does not stay; the comparisons of the batch itself do.
            pairs = among_own(compared, batch, rows)
        self.last = Statistics.of(parts, pairs, self.mining is not None)
        return parts

    def _mined(self, pairs: Pairs) -> Pairs:
        if self.mining is None:
            return pairs
        return self.mining(pairs if self.mining.table else pairs.as_list())

    def _against_classes(
        self,
        anchors: Tensor,
        proxies: Tensor,
        met: Met,
        rows: Tensor | None,
        every: Tensor | None,
        apart: Apart | None,
        judged: Verdict,
        lengths: Lengths = (None, None),
    ) -> tuple[Terms, ...]:
        """The same for a loss with proxies, the vectors of all classes.

        Args:
            every: all rows of the batch, which move the statistics that run over batches; None for no move.
            apart: what to know of other ranks' classes, where ``proxies`` are of this rank's.
            judged: whether the batch is finite.
            lengths: of the anchors and of the proxies, where they are known.
        """
        kind = self._entry.proxies
        assert kind is not None
        geometry = kind.geometry(self.similarity, self.settings)
        vectors = met.vectors(proxies, geometry.centres)
        place = met.place if rows is None else met.place[rows]
        pairs = against_classes(anchors, vectors, place, geometry, self.backend, apart, lengths)
        running = {key: getattr(self, f"running_{key}") for key in self._entry.running}
        if every is not None and self._entry.update is not None:
            with torch.no_grad():
                seen = pairs.detach()
                if rows is not None:
                    seen = against_classes(every, vectors.detach(), met.place, geometry, self.backend)
                for key, value in self._entry.update(seen, running).items():
                    running[key].copy_(judged.running(value, running[key]))
        parts = self._terms(pairs, None, {}, tuple(value.clone() for value in running.values()))
        if not is_compiling():
            self.__dict__["last"] = Statistics.of(parts, pairs, mined=False, verdict=judged)
        return parts

    def _chunk(self, relation: Relation, n: int, m: int) -> int | None:
        """How many of n anchors to take at a time, where the positives of all are too many to list."""
        if n * m <= MOST_POSITIVES or not self._entry.separable:
            return None
        if self.mining is not None and not self.mining.separable:
            return None
        positives = relation.on_host.kinship.count()
        if positives <= MOST_POSITIVES:
            return None
        return max(1, n * MOST_POSITIVES // positives)

    def _terms(
        self,
        pairs: Pairs,
        classes: Tensor | None,
        learned: Mapping[str, Tensor],
        running: tuple[Tensor, ...] = (),
    ) -> tuple[Terms, ...]:
        settings, entry = self.settings, self._entry
        if learned:
            settings = settings | {
                name: as_number(value) if classes is None else taken(value, classes)
                for name, value in learned.items()
            }
        if (table := entry.table) is not True:
            pairs = pairs.short(wait=table == "short") if table else pairs.as_list()
        value = entry.function(pairs, *running, **settings)
        if isinstance(value, tuple):
            return value
        if isinstance(value, Terms):
            return (value,)
        owners = pairs.positives.owners(len(pairs))
        return (Values(value, partial(_valid, entry.needs, owners)),)


def _valid(needs: Needs, owners: Callable[[], Tensor], value: Float[Tensor, " anchor"]) -> Tensor:
    """Say which anchors have what the loss needs: a positive, or either kind, where the value is not 0."""
    if needs == "nothing":
        return torch.ones_like(value, dtype=torch.bool)
    return owners() if needs == "positive" else owners() | (value != 0)
