"""Every number of the report in one dictionary: ``result.json`` is this, and the page is written from it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nearfar import __version__
from nearfar.report.advice import advise
from nearfar.report.curves import chosen, steps, validations
from nearfar.report.material import Material
from nearfar.report.overlap import measure
from nearfar.report.queries import (
    Confusion,
    Margins,
    Twin,
    confusions,
    margins,
    nearest,
    suspects,
    twins,
)
from nearfar.report.verdict import against, in_100, sentence, verdict, worse_than

__all__ = ["Findings", "find", "first_right", "in_100", "sentence", "summarise"]

# Cosine of two pictures of 32 x 32 pixels, mean removed, from which they pass for copies of each other.
COPY = 0.995
# Copies are looked for among at most this many pictures: the work grows with the square.
COPY_LIMIT = 20_000


@dataclass(frozen=True)
class Findings:
    """What was found among the test pictures, as rows and classes; the page shows the pictures."""

    margins: Margins
    ids: np.ndarray
    similarity: np.ndarray
    right: np.ndarray
    confusions: list[Confusion]
    suspects: list[Twin]
    twins: list[Twin]
    copies: list[Twin]

    @property
    def answerable(self) -> np.ndarray:
        return self.margins.answerable


def find(material: Material) -> Findings:
    """Look through the trained embeddings for what a reader should see."""
    embeddings, labels = material.embeddings["after"], material.test.label
    found = margins(embeddings, labels)
    ids, similarity = nearest(embeddings, 10)
    right = first_right(material.results["after"], found)
    twins_found: list[Twin] = []
    copies: list[Twin] = []
    pixels = material.embeddings.get("pixels")
    if pixels is not None and len(pixels) <= COPY_LIMIT:
        # Each pair once, and only pairs that the labels call different.
        twins_found = twins(
            pixels,
            pixels,
            lambda rows, n: (labels[rows, None] != labels[None, :]) & (np.arange(n)[None, :] > rows[:, None]),
            COPY,
        )
        if material.train_pixels is not None and 0 < len(material.train_pixels) <= COPY_LIMIT:
            copies = twins(pixels, material.train_pixels, lambda rows, n: np.ones((len(rows), n), bool), COPY)
    return Findings(
        found,
        ids,
        similarity,
        right,
        confusions(ids, similarity, labels, found.answerable),
        suspects(ids, similarity, labels),
        twins_found,
        copies,
    )


def first_right(result: Any, found: Margins) -> np.ndarray:
    """Whether the nearest picture of each query is right, as the evaluation counted it where it tells."""
    told = getattr(result, "per_query", {}).get("recall_at_1")
    right = found.margin > 0
    if told is None:
        return right & found.answerable
    told = np.asarray(told, np.float64)
    if len(told) == len(right):
        return np.nan_to_num(told) > 0.5
    filled = np.zeros(len(right), bool)
    filled[found.answerable] = told > 0.5
    return filled


def summarise(material: Material, findings: Findings) -> dict[str, Any]:
    """Return every number of the report; all of it can be written as JSON."""
    labels, classes = material.test.label, material.test.classes
    seed = int(material.run.get("seed", 0) or 0)
    results = {kind: _result(material.results[kind], material.names[kind]) for kind in material.kinds}
    pairs = {kind: measure(material.embeddings[kind], labels, seed) for kind in material.kinds}
    validation = material.validation_seen
    queries = int(results["after"]["n_queries"]) - int(results["after"]["n_skipped"])
    summary: dict[str, Any] = {
        "format": 1,
        "nearfar": __version__,
        "data": {
            "name": material.test.name,
            "source": material.test.source,
            "train": _counts(material.train),
            "test": _counts(material.test),
            "classes_are_new": material.unseen,
            "training_saw": material.seen.to_dict(),
            "validation": None if validation is None else validation.to_dict(),
        },
        "model": {"weights": material.weights, **_plain(material.config.get("model", {}))},
        "results": results,
        "queries": queries,
        "gallery": max(len(material.test) - 1, 0),
        "similarity": {kind: asdict(found) for kind, found in pairs.items() if found is not None},
        "wrong_queries": int((~findings.right & findings.answerable).sum()),
        "classes": _classes(findings, labels, classes),
        "confusions": [
            {
                "classes": [classes[pair.classes[0]], classes[pair.classes[1]]],
                "count": pair.count,
                "queries": pair.queries,
                "similarity": round(pair.similarity, 4),
            }
            for pair in findings.confusions
        ],
        "likely_label_mistakes": len(findings.suspects),
        "near_duplicates": {
            "threshold": COPY,
            "looked_for": len(material.test) <= COPY_LIMIT,
            "within_test": len(findings.twins),
            "train_test": len(findings.copies),
        },
        "worse_than": worse_than(results),
        "verdict": verdict(results, pretrained=material.pretrained),
        "training": _training(material.log) | {"lost": list(material.lost)},
        "chosen": _plain(material.run.get("chosen") or {}),
        "config": _plain(material.config),
        "run": _plain(material.run),
    }
    summary["sentence"] = " ".join(part for part in sentence(summary, material.nouns) if part)
    summary["previous"] = against(material.previous, summary)
    summary["advice"] = advise(summary, material.log, material.config)
    return _plain(summary)


def _result(result: Any, name: str) -> dict[str, Any]:
    intervals = {key: [float(low), float(high)] for key, (low, high) in dict(result.intervals).items()}
    return {
        "name": name,
        "recall_at_k": {str(k): float(value) for k, value in result.recall_at_k.items()},
        "map_at_r": float(result.map_at_r),
        "r_precision": float(result.r_precision),
        "map": float(result.map),
        "mrr": float(result.mrr),
        "n_queries": int(result.n_queries),
        "n_skipped": int(result.n_skipped),
        "tie_sensitive_fraction": float(result.tie_sensitive_fraction),
        "settings": dict(getattr(result, "settings", {})),
        "intervals": intervals,
    }


def _counts(table: Any) -> dict[str, Any]:
    sizes = np.unique(table.label, return_counts=True)[1]
    low, middle, high = (sizes.min(), np.median(sizes), sizes.max()) if len(sizes) else (0, 0, 0)
    return {"images": len(table), "classes": len(sizes), "per_class": [int(low), float(middle), int(high)]}


def _classes(findings: Findings, labels: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    """One line for each class that has queries, the best first."""
    count = len(classes)
    queries = np.bincount(labels[findings.answerable], minlength=count)
    right = np.bincount(labels[findings.right & findings.answerable], minlength=count)
    lines = [
        {"class": label, "name": classes[label], "right": int(right[label]), "queries": int(queries[label])}
        for label in np.flatnonzero(queries).tolist()
    ]
    return sorted(lines, key=lambda line: (-line["right"] / line["queries"], line["name"]))


def _training(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    lines, best = steps(log), chosen(log)
    told: dict[str, Any] = {"steps": int(lines[-1]["step"]) if lines else 0}
    if lines:
        told["last"] = dict(lines[-1])
    if best:
        told["chosen"] = dict(best)
        told["validations"] = len(validations(log))
    told["warnings"] = [str(line.get("text", "")) for line in log if line.get("kind") == "warning"]
    return told


def _plain(value: Any) -> Any:
    """Turn numpy numbers, tuples and paths into what JSON knows; a number that is not finite becomes null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, int | np.integer):
        return int(value)
    if isinstance(value, float | np.floating):
        return float(value) if math.isfinite(value) else None
    return value if value is None or isinstance(value, str) else str(value)
