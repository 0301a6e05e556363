"""From scores and a protocol to the result of a retrieval evaluation."""

import warnings
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64

from nearfar.distributed import gather_rows, rank, world_size
from nearfar.errors import NearfarError, suggest
from nearfar.evaluate.comparison import Comparison
from nearfar.evaluate.expected import expected_metrics
from nearfar.evaluate.intervals import Average, Resample, bootstrap_intervals, mean
from nearfar.evaluate.metrics import (
    AT_K,
    WHOLE,
    Ties,
    at_name,
    column_names,
    first_hit,
    measure,
    order_ties,
    tie_sensitive,
)
from nearfar.evaluate.protocol import RetrievalProtocol
from nearfar.evaluate.ranks import count_ranks
from nearfar.evaluate.result import RetrievalResult, TieWarning
from nearfar.evaluate.settings import cut_offs, perhaps_whole, whole_number
from nearfar.evaluate.sides import Sides
from nearfar.similarity.threads import in_threads

NoRelevant = Literal["skip", "zero"]

_WARN_ABOVE = 0.001


@dataclass(frozen=True)
class Options:
    """How to measure; the words are those of ``nearfar.evaluate.retrieval``."""

    ks: tuple[int, ...]
    ties: Ties
    no_relevant: NoRelevant
    average: Average
    bootstrap: int
    resample: Resample
    seed: int
    cmc_length: int

    def __post_init__(self) -> None:
        choices = {"ties": Ties, "no_relevant": NoRelevant, "average": Average, "resample": Resample}
        for name, words in choices.items():
            value, known = getattr(self, name), list(get_args(words))
            if value not in known:
                raise NearfarError(
                    f"{name} is {value!r}; use one of {', '.join(known)}.{suggest(str(value), known)}"
                )
        numbers = {
            "ks": cut_offs(self.ks),
            "cmc_length": whole_number(
                self.cmc_length, "cmc_length", 1, most=10**6, ask="cut-offs are whole numbers"
            ),
            "bootstrap": whole_number(self.bootstrap, "bootstrap", 0, most=10**7),
            "seed": whole_number(self.seed, "seed", 0, most=2**63 - 1),
        }
        for name, number in numbers.items():
            object.__setattr__(self, name, number)
        if self.average == "macro" and self.resample == "query" and self.bootstrap:
            raise NearfarError(
                "a macro average is a mean over classes; use resample='class' for its intervals."
            )


def evaluate(
    comparison: Comparison,
    sides: Sides,
    options: Options,
    *,
    tile: int | None,
    workers: int | None,
    similarity: str,
    across_ranks: bool = False,
) -> RetrievalResult:
    """Rank, measure and average.

    Args:
        comparison: scores.
        sides: relevance and exclusions, and the class of each query for macro averages and the bootstrap.
        options: how to measure.
        tile: rows and columns of one product.
        workers: threads.
        similarity: recorded in the result.
        across_ranks: whether each rank measures a part of the queries.

    Returns:
        The result.
    """
    tile, workers = perhaps_whole(tile, "tile", 1), perhaps_whole(workers, "workers", 1)
    protocol, classes, asked = sides.protocol, sides.classes, sides.asked
    groups = protocol.groups()
    if across_ranks:
        groups = [group[rank() :: world_size()] for group in groups]

    def work(queries: Int64[np.ndarray, " some"]) -> tuple[np.ndarray, ...]:
        return _measure_group(comparison, protocol, queries, options, tile)

    columns = [np.concatenate(part) for part in zip(*in_threads(work, groups, workers), strict=True)]
    if across_ranks:
        columns = _of_all_ranks(columns, np.concatenate(groups))
    table, curve, sensitive, relevant = columns
    relevant[~asked] = 0
    table[~asked] = np.nan
    valid, n_queries = relevant > 0, int(np.count_nonzero(asked))
    if options.no_relevant == "zero":
        table[asked & ~valid] = 0.0
    elif not valid.any():
        raise NearfarError(
            f"none of the {n_queries} queries has a relevant image in the gallery; give a gallery that "
            "shares classes with the queries, or at least two images of a class."
        )
    counted = asked if options.no_relevant == "zero" else valid
    names = column_names(options.ks)
    means = dict(zip(names, mean(table, counted, classes, options.average).tolist(), strict=True))
    intervals: dict[str, tuple[float, float]] = {}
    if options.bootstrap:
        ends = bootstrap_intervals(
            table,
            counted,
            classes,
            options.average,
            options.resample,
            options.bootstrap,
            options.seed,
        )
        intervals = {name: (float(low), float(high)) for name, (low, high) in zip(names, ends, strict=True)}
    fraction = float(sensitive[valid].mean()) if valid.any() else 0.0
    if fraction > _WARN_ABOVE:
        warnings.warn(
            f"{100 * fraction:.1f} % of the queries have a relevant and an irrelevant image at exactly the "
            "same similarity, so their metrics depend on the order of ties; look for duplicate images, "
            "low-precision embeddings or a collapsed model, and compare ties='optimistic' with "
            "ties='pessimistic'.",
            TieWarning,
            stacklevel=3,
        )
    values: dict[str, Any] = {name: {k: means[at_name(name, k)] for k in options.ks} for name in AT_K}
    values |= {name: means[name] for name in WHOLE}
    cmc = mean(curve, counted, classes, options.average)
    return RetrievalResult(
        **values,
        cmc=np.append(cmc, np.full(options.cmc_length - len(cmc), cmc[-1])),
        per_query={name: np.ascontiguousarray(table[:, i]) for i, name in enumerate(names)},
        relevant_per_query=relevant,
        n_queries=n_queries,
        n_skipped=int(np.count_nonzero(asked & ~valid)),
        n_gallery=comparison.n_gallery,
        tie_sensitive_fraction=fraction,
        intervals=intervals,
        settings=asdict(options)
        | {"similarity": similarity}
        | ({} if sides.unlabelled is None else {"unlabelled": sides.unlabelled}),
    )


def _of_all_ranks(columns: list[np.ndarray], queries: Int64[np.ndarray, " some"]) -> list[np.ndarray]:
    """Return what all ranks measured, in the order of the queries."""
    order = np.argsort(gather_rows(torch.from_numpy(queries)).numpy())
    return [gather_rows(torch.from_numpy(column)).numpy()[order] for column in columns]


def _measure_group(
    comparison: Comparison,
    protocol: RetrievalProtocol,
    queries: Int64[np.ndarray, " some"],
    options: Options,
    tile: int | None,
) -> tuple[
    Float64[np.ndarray, "some metric"],
    Float64[np.ndarray, "some length"],
    Bool[np.ndarray, " some"],
    Int64[np.ndarray, " some"],
]:
    """Metrics, CMC curve, sensitivity to ties and number of relevant items of some queries."""
    ranks = count_ranks(comparison, protocol, queries, tile)
    rank = order_ties(ranks, options.ties)
    # Beyond the gallery the curve stays as it is.
    length = min(options.cmc_length, comparison.n_gallery)
    table = measure(ranks, rank, options.ks)
    curve = first_hit(ranks, rank, length)
    sensitive = tie_sensitive(ranks)
    if options.ties == "expected":
        for row in np.flatnonzero(sensitive):
            table[row], curve[row] = expected_metrics(ranks, int(row), options.ks, length)
    return table, curve, sensitive, ranks.counts
