"""The result of a retrieval evaluation."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64

from nearfar.evaluate.plain import as_html, plain_numbers


class TieWarning(UserWarning):
    """The result depends on the order of tied items: more than 0.1 % of the queries."""


@dataclass(frozen=True)
class RetrievalResult:
    """Metrics of retrieval; ``str()`` is a small table. Definitions are in ``nearfar.evaluate.metrics``.

    Attributes:
        recall_at_k: share of queries with a relevant item among the first k.
        precision_at_k: relevant share of the first k.
        precision_at_min_r_k: relevant items among the first k, over min(R, k).
        precision_at_min_last_k: the same over min(rank of the last relevant item, k).
        irrecall_at_k: share of the relevant items found among the first k.
        map_at_k_over_r: average precision cut at k, over R.
        map_at_k_over_min_r_k: the same over min(R, k).
        map_at_k_over_hits: the same over the relevant items among the first k.
        ndcg_at_k: normalised discounted cumulative gain.
        r_precision: precision at R.
        map_at_r: MAP@R of Musgrave et al. 2020.
        map: mean of the non-interpolated average precision.
        map_trapezoid: mean of the average precision by trapezoids (official Oxford, Paris and Market code).
        mrr: mean reciprocal rank of the first relevant item.
        minp: mean inverse negative penalty, R over the rank of the last relevant item.
        cmc: recall at 1, 2, …, ``len(cmc)``.
        per_query: the same metrics for each query, by names as ``recall_at_1`` or ``map_at_r``; NaN for a
            query with nothing relevant, unless ``no_relevant="zero"``.
        n_queries: number of queries given.
        n_skipped: queries with no relevant item in the gallery, left out of every mean (counted as 0 with
            ``no_relevant="zero"``).
        n_gallery: number of gallery images.
        tie_sensitive_fraction: share of the queries with a relevant item whose average precision depends on
            the order of exactly tied items.
        intervals: 95 % bootstrap intervals by metric name; empty without bootstrap.
        settings: how ties, queries with nothing relevant, and the average were handled.
    """

    recall_at_k: dict[int, float]
    precision_at_k: dict[int, float]
    precision_at_min_r_k: dict[int, float]
    precision_at_min_last_k: dict[int, float]
    irrecall_at_k: dict[int, float]
    map_at_k_over_r: dict[int, float]
    map_at_k_over_min_r_k: dict[int, float]
    map_at_k_over_hits: dict[int, float]
    ndcg_at_k: dict[int, float]
    r_precision: float
    map_at_r: float
    map: float
    map_trapezoid: float
    mrr: float
    minp: float
    cmc: Float64[np.ndarray, " rank"]
    per_query: Mapping[str, Float64[np.ndarray, " query"]] = field(repr=False)
    relevant_per_query: Int64[np.ndarray, " query"] = field(repr=False)
    n_queries: int
    n_skipped: int
    n_gallery: int
    tie_sensitive_fraction: float
    intervals: dict[str, tuple[float, float]]
    settings: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Everything but the values of single queries: plain numbers and lists, the keys text."""
        return plain_numbers(
            {
                item.name: getattr(self, item.name)
                for item in fields(self)
                if item.name not in ("per_query", "relevant_per_query")
            }
        )

    def __repr__(self) -> str:
        recall = ", ".join(f"recall_at_{k}={value:.4f}" for k, value in self.recall_at_k.items())
        return (
            f"RetrievalResult({recall}, map_at_r={self.map_at_r:.4f}, {self.n_queries} queries, "
            f"{self.n_gallery} gallery images)"
        )

    def _repr_html_(self) -> str:
        return as_html(self)

    def __str__(self) -> str:
        lines = [(f"Recall@{k}", f"recall_at_{k}", value) for k, value in self.recall_at_k.items()]
        lines += [
            ("MAP@R", "map_at_r", self.map_at_r),
            ("R-precision", "r_precision", self.r_precision),
            ("mAP", "map", self.map),
            ("MRR", "mrr", self.mrr),
            ("mINP", "minp", self.minp),
        ]
        width = max(len(title) for title, _, _ in lines)
        text = []
        for title, name, value in lines:
            low_high = self.intervals.get(name)
            ends = f"   [{100 * low_high[0]:.2f}, {100 * low_high[1]:.2f}]" if low_high else ""
            text.append(f"{title:<{width}}  {100 * value:6.2f} %{ends}")
        skipped = f" ({self.n_skipped} with nothing relevant)" if self.n_skipped else ""
        text.append(f"{self.n_queries} queries{skipped}, {self.n_gallery} gallery images")
        if self.tie_sensitive_fraction > 0:
            text.append(
                f"{100 * self.tie_sensitive_fraction:.2f} % of the queries depend on the order of tied items"
            )
        return "\n".join(text)
