"""What the ranks tell each other before a loss: how many rows they have, their labels, and what is wrong."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

import torch
from jaxtyping import Int
from torch import Tensor

from nearfar.criterion.batch import Batch
from nearfar.criterion.finite import Verdict, judge, verdict
from nearfar.criterion.ranks.digests import DIGESTS, digests
from nearfar.distributed import rank, settings, world_size
from nearfar.distributed.exchange import numbers_of_all, rows_of_all
from nearfar.distributed.world import device_of
from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import registry
from nearfar.memory import CrossBatchMemory
from nearfar.similarity import Relevance

logger = logging.getLogger("nearfar")

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
EXCHANGES = ("auto", "gather", "ring")

Words = Callable[[int], str]
# What must be the same on all ranks, and how a rank says what it has.
ALIKE: dict[str, Words] = {
    "loss": lambda x: f"the name {_loss_named(x)}",
    "training": lambda x: f"its loss in {'training' if x else 'evaluation'} mode",
    "dim": lambda x: f"embeddings of {x} dimensions",
    "dtype": lambda x: f"embeddings of {DTYPES[x]}",
    "tags": lambda x: {-1: "Relevance", 0: "labels that are classes"}.get(x, f"labels of {x} tags"),
    "weights": lambda x: "weights" if x else "no weights",
    "ids": lambda x: "ids" if x else "no ids",
    "candidate_dim": lambda x: "no candidates" if x < 0 else f"candidates of {x} dimensions",
    "candidate_dtype": lambda x: "no candidates" if x < 0 else f"candidates of {DTYPES[x]}",
    "candidate_ids": lambda x: "candidate_ids" if x else "no candidate_ids",
    "memory": lambda x: "no memory" if x < 0 else f"a memory that has taken in {x} embeddings",
    "memory_size": lambda x: f"a memory of {abs(x)} embeddings{', sharded over ranks' if x < 0 else ''}",
    "memory_kind": lambda _: "a memory with its own settings",
    "exchange": lambda x: f"settings.exchange = {EXCHANGES[x]!r}",
}
MEMORY_SETTINGS = ("dtype", "combine", "weight", "enqueue", "xbm_compat", "start_after")
# What may differ: whether the call failed at once, numbers to send, rows, …
OWN = ("failed", "numbers", "rows", "candidates", "pairs", "finite", "learning", *DIGESTS)


@dataclass(frozen=True, eq=False)
class Everyone:
    """A batch of all ranks.

    Attributes:
        batch: labels, ids and weights of all ranks; the vectors are still those of this rank, made finite.
        counts: rows of each rank.
        candidate_counts: candidates of each rank; None without candidates.
        learning: what any rank wants the gradient of, as ``wanted`` says it.
        verdict: whether what all ranks have given is finite.
        told: what each rank said of its weights and rows; see ``digests``.
    """

    batch: Batch
    counts: list[int]
    candidate_counts: list[int] | None
    learning: int
    verdict: Verdict
    told: list[dict[str, int]]

    @property
    def bytes_to_gather(self) -> int:
        """What the rows that anchors are compared with, and their gradient, take on a rank that has all."""
        rows = self.batch.embeddings if self.batch.candidates is None else self.batch.candidates
        counts = self.counts if self.candidate_counts is None else self.candidate_counts
        return 2 * sum(counts) * rows.shape[1] * max(4, rows.element_size())

    @property
    def own(self) -> Int[Tensor, " row"]:
        """Which of all rows are this rank's."""
        start = sum(self.counts[: rank()])
        return torch.arange(start, start + self.counts[rank()], device=self.batch.embeddings.device)


def wanted(*groups: bool) -> int:
    """Say in one number which groups of tensors a gradient is wanted of; none under ``torch.no_grad``."""
    if not torch.is_grad_enabled():
        return 0
    return sum(2**place for place, wants in enumerate(groups) if wants)


def meet_ranks(
    batch: Batch,
    check: Callable[[], None],
    numbers: Sequence[Tensor],
    *,
    loss: str,
    sharded: bool,
    training: bool,
    memory: CrossBatchMemory | None,
    learning: int,
    weights: Sequence[Tensor] | None = None,
) -> Everyone:
    """Exchange all but the vectors, in two collectives; every rank comes to the same verdict.

    Args:
        check: raises what is wrong with this rank's arguments.
        numbers: what else must be finite.
        loss: its name.
        sharded: whether the ranks share its classes out.
        memory: what is to be in the same state on all ranks.
        learning: see ``wanted``.
        weights: of the loss, where the ranks are to look whether they have the same, and other rows.

    Raises:
        NearfarError: the same on every rank, if one of them has called the loss wrongly, or otherwise than
            the others.
    """
    device, sentence = device_of(batch.embeddings), ""
    try:
        check()
    except NearfarError as error:
        sentence = str(error)
    if sentence:
        sent = torch.tensor(list(sentence.encode()), dtype=torch.int64, device=device)
        own = dict.fromkeys((*OWN, *ALIKE), 0) | {"failed": 1, "numbers": len(sent)}
    else:
        sent = _packed(batch)
        own = _described(batch) | {
            "finite": int(judge((batch.embeddings, batch.candidates, batch.weights, *numbers)).is_finite),
            "failed": 0,
            "numbers": len(sent),
            "loss": _number(loss, sharded),
            "training": int(training),
            "learning": learning,
            **(dict.fromkeys(DIGESTS, 0) if weights is None else digests(weights, batch)),
            **_described_memory(memory),
        }
    keys = (*OWN, *ALIKE)
    ranks = [
        dict(zip(keys, values, strict=True)) for values in numbers_of_all([own[key] for key in keys], device)
    ]
    lengths = [each["numbers"] for each in ranks]
    parts = list(rows_of_all(sent, lengths).split(lengths)) if max(lengths) else [sent] * world_size()
    _refuse(ranks, parts)
    judged = verdict(_finite(ranks))
    counts = [each["rows"] for each in ranks]
    others = None if batch.candidates is None else [each["candidates"] for each in ranks]
    joint = 0
    for each in ranks:
        joint |= each["learning"]
    return Everyone(
        judged.batch(_unpacked(batch, ranks, parts)), counts, others, joint, verdict=judged, told=ranks
    )


def _described(batch: Batch) -> dict[str, int]:
    x, y, labels = batch.embeddings, batch.candidates, batch.labels
    listed = isinstance(labels, Relevance)
    return {
        "rows": len(x),
        "candidates": 0 if y is None else len(y),
        "pairs": len(labels.pairs) if isinstance(labels, Relevance) else 0,
        "dim": x.shape[1],
        "dtype": DTYPES.index(x.dtype),
        "tags": -1 if listed else 0 if labels.ndim == 1 else labels.shape[1],
        "weights": int(batch.weights is not None),
        "ids": int(batch.ids is not None),
        "candidate_dim": -1 if y is None else y.shape[1],
        "candidate_dtype": -1 if y is None else DTYPES.index(y.dtype),
        "candidate_ids": int(batch.candidate_ids is not None),
        "exchange": EXCHANGES.index(settings.exchange),
    }


def _described_memory(memory: CrossBatchMemory | None) -> dict[str, int]:
    if not isinstance(memory, CrossBatchMemory):  # the loss is about to say so
        return {"memory": -1, "memory_size": 0, "memory_kind": 0}
    size = -memory.size if memory.sharded else memory.size
    kind = (getattr(memory, name) for name in MEMORY_SETTINGS)
    return {"memory": memory.added, "memory_size": size, "memory_kind": crc32(repr(list(kind)).encode())}


def _number(loss: str, sharded: bool) -> int:
    """A number for a loss, to be compared; ``_loss_named`` turns it back."""
    return crc32(f"{loss}, {'sharded' if sharded else 'whole'}".encode())


def _loss_named(number: int) -> str:
    for name in registry.names():
        for sharded in (False, True):
            if _number(name, sharded) == number:
                return f"{name} and sharded={sharded}"
    return "of another loss"


def _refuse(ranks: list[dict[str, int]], numbers: list[Tensor]) -> None:
    for k, each in enumerate(ranks):
        if each["failed"]:
            raise NearfarError(f"rank {k}: {bytes(numbers[k].tolist()).decode()}")
    for key, words in ALIKE.items():
        for k, each in enumerate(ranks):
            if each[key] != ranks[0][key]:
                raise NearfarError(
                    f"rank 0 calls a loss with {words(ranks[0][key])} but rank {k} with {words(each[key])}; "
                    "all ranks must call the same losses in the same order, with the same kind of batch."
                )


def _finite(ranks: list[dict[str, int]]) -> bool:
    """Say whether all are finite, and of which rank it is not so."""
    wrong = [k for k, each in enumerate(ranks) if not each["finite"]]
    if wrong and rank() == 0:
        logger.warning(
            "rank %d gives its loss NaN or infinity; the loss is NaN on all %d ranks", wrong[0], len(ranks)
        )
    return not wrong


def _packed(batch: Batch) -> Int[Tensor, " number"]:
    """Everything but the vectors as one row of whole numbers; weights as the bits of float64."""
    weights = None if batch.weights is None else batch.weights.detach().double().view(torch.int64)
    labels = batch.labels.pairs if isinstance(batch.labels, Relevance) else batch.labels
    parts = (labels, batch.ids, weights, batch.candidate_labels, batch.candidate_ids)
    return torch.cat([part.long().flatten() for part in parts if part is not None])


def _unpacked(batch: Batch, ranks: list[dict[str, int]], numbers: list[Tensor]) -> Batch:
    """Put the parts of all ranks behind each other; listed pairs count the rows of all ranks."""
    columns = ranks[0]["tags"]
    width = 2 if columns < 0 else max(1, columns)
    found: dict[str, list[Tensor]] = {}
    start = first = 0
    for each, flat in zip(ranks, numbers, strict=True):
        n, m = each["rows"], each["candidates"]
        lengths = {"labels": (each["pairs"] if columns < 0 else n) * width}
        lengths["ids"] = n if batch.ids is not None else 0
        lengths["weights"] = n if batch.weights is not None else 0
        lengths["candidate_labels"] = m * width if batch.candidate_labels is not None else 0
        lengths["candidate_ids"] = m if batch.candidate_ids is not None else 0
        parts = dict(zip(lengths, flat.split(list(lengths.values())), strict=True))
        if columns < 0:
            offset = flat.new_tensor([start, start if batch.candidates is None else first])
            parts["labels"] = parts["labels"].view(-1, 2) + offset
        elif columns:
            parts["labels"] = parts["labels"].view(-1, width)
            parts["candidate_labels"] = parts["candidate_labels"].view(-1, width)
        for key, part in parts.items():
            found.setdefault(key, []).append(part)
        start, first = start + n, first + m
    whole = {key: torch.cat(parts) for key, parts in found.items()}
    return replace(
        batch,
        labels=Relevance(whole["labels"]) if columns < 0 else whole["labels"],
        ids=None if batch.ids is None else whole["ids"],
        weights=None if batch.weights is None else whole["weights"].view(torch.float64),
        candidate_labels=None if batch.candidate_labels is None else whole["candidate_labels"],
        candidate_ids=None if batch.candidate_ids is None else whole["candidate_ids"],
    )
