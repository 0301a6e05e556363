"""The sections of the page as plain data for the template: pictures, captions, figures, tables."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nearfar.data.table import Table
from nearfar.report.curves import as_high_again, training_curves
from nearfar.report.decoding import Small
from nearfar.report.figures import (
    Bar,
    ClassBar,
    Curve,
    Histogram,
    class_bars,
    headline_bars,
    histogram,
    percent,
    recall_curve,
)
from nearfar.report.material import Material
from nearfar.report.pictures import Thumbnails
from nearfar.report.queries import Row, Twin, best_median_worst, rows_of, strip_queries
from nearfar.report.summary import Findings
from nearfar.report.verdict import in_100, of_validation

WIDE, MIDDLE, PHONE = 1080.0, 700.0, 348.0


@dataclass(frozen=True)
class Tile:
    """One picture of the page: what it shows, whether it is right, what stands under it."""

    uri: str
    side: int
    verdict: str  # "right", "wrong", "query" or "plain"
    words: str
    alt: str
    name: str


@dataclass(frozen=True)
class Figure:
    """A figure at the width of a page and at the width of a phone, under a title that says what is seen."""

    title: str
    wide: str
    phone: str


class Gallery:
    """Makes tiles of the pictures of a table."""

    def __init__(self, table: Table, small: Small | None = None) -> None:
        self.table = table
        self.thumbnails = Thumbnails(table, small)

    def name(self, row: int) -> str:
        return self.table.classes[self.table.label[row]]

    def query(self, row: int, wanted: int) -> Tile:
        side = self.thumbnails.shown(wanted)
        return Tile(
            self.thumbnails.uri(row, side),
            side,
            "query",
            self.name(row),
            f"Query: {self.name(row)}",
            self.name(row),
        )

    def neighbour(self, row: int, similarity: float, right: bool, wanted: int) -> Tile:
        side = self.thumbnails.shown(wanted)
        verdict = "right" if right else "wrong"
        alt = f"{self.name(row)}, {verdict}, similarity {similarity:.2f}"
        return Tile(self.thumbnails.uri(row, side), side, verdict, f"{similarity:.2f}", alt, self.name(row))

    def row(self, row: Row, wanted: int) -> list[Tile]:
        return [
            self.neighbour(near, value, right, wanted)
            for near, value, right in zip(row.neighbours, row.similarity, row.right, strict=True)
        ]


def strip(material: Material, gallery: Gallery, findings: Findings, seed: int) -> list[dict[str, Any]]:
    """Six queries with their five nearest before and after training."""
    labels = material.test.label
    chosen = strip_queries(findings.answerable, findings.right, labels, seed)
    kinds = [kind for kind in ("before", "after") if kind in material.embeddings]
    near = {kind: rows_of(material.embeddings[kind], labels, chosen, 5) for kind in kinds}
    return [
        {
            "query": query,
            "tile": gallery.query(query, 144),
            "lines": [
                {
                    "words": f"{kind} training",
                    "kind": kind,
                    "row": near[kind][place],
                    "tiles": gallery.row(near[kind][place], 52),
                }
                for kind in kinds
            ],
        }
        for place, query in enumerate(chosen)
    ]


def query_rows(
    material: Material, gallery: Gallery, findings: Findings, count: int = 4
) -> list[dict[str, Any]]:
    """Best, median and worst queries with their ten nearest; and queries that have no right answer."""
    labels = material.test.label
    groups = best_median_worst(findings.margins, labels, count)
    alone = np.flatnonzero(~findings.answerable)
    words = {
        "best": ("The surest", "The nearest right picture is far ahead of the nearest wrong one."),
        "median": ("The middling", "Half of all queries do better than these, half do worse."),
        "worst": ("The worst", "A wrong picture is far ahead of every right one."),
    }
    shown: list[dict[str, Any]] = [
        {"id": name, "title": words[name][0], "note": words[name][1], "queries": queries}
        for name, queries in groups.items()
        if queries
    ]
    if len(alone):
        note = f"{len(alone):,} pictures are the only one of their class, so they are shown but not counted."
        shown.append(
            {"id": "alone", "title": "No right answer", "note": note, "queries": alone[:count].tolist()}
        )
    for group in shown:
        rows = rows_of(material.embeddings["after"], labels, group["queries"], 10)
        group["rows"] = [
            {
                "tile": gallery.query(row.query, 96),
                "tiles": gallery.row(row, 96),
                "label": int(labels[row.query]),
                "right": sum(row.right),
            }
            for row in rows
        ]
    return shown


def confusion_cards(material: Material, gallery: Gallery, findings: Findings) -> list[dict[str, Any]]:
    """The pairs of classes most often mixed, each with the two pictures that did it most."""
    return [
        {
            "first": gallery.query(pair.example[0], 96),
            "second": gallery.neighbour(pair.example[1], pair.similarity, False, 96),
            "labels": [int(material.test.label[row]) for row in pair.example],
            "count": pair.count,
            "queries": pair.queries,
        }
        for pair in findings.confusions
    ]


def twin_cards(
    gallery: Gallery, found: Sequence[Twin], other: Gallery | None = None, limit: int = 8
) -> list[dict[str, Any]]:
    """Pairs of pictures that look too much alike, side by side."""
    return [
        {
            "first": gallery.query(twin.first, 96),
            "second": (other or gallery).query(twin.second, 96),
            "similarity": f"{twin.similarity:.2f}",
        }
        for twin in found[:limit]
    ]


def contact_sheet(
    table: Table, title: str, classes: int = 10, per_class: int = 8, small: Small | None = None
) -> dict[str, Any]:
    """Some classes of a table as rows of their pictures."""
    thumbnails = Thumbnails(table, small)
    occurring = np.unique(table.label)
    picked = occurring[np.linspace(0, len(occurring) - 1, min(classes, len(occurring))).astype(int)]
    rows = []
    for label in dict.fromkeys(picked.tolist()):
        members = np.flatnonzero(table.label == label)
        shown = members[:per_class].tolist()
        side = thumbnails.shown(52)
        rows.append(
            {
                "name": table.classes[label],
                "uri": thumbnails.strip(shown, side),
                "width": (side + 2) * len(shown) + 2,
                "height": side + 4,
                "count": len(members),
                "alt": f"{len(shown)} of {len(members)} pictures of {table.classes[label]}",
            }
        )
    return {
        "title": title,
        "rows": rows,
        "images": len(table),
        "classes": len(occurring),
        "crisp": thumbnails.crisp,
    }


def figures(material: Material, summary: Mapping[str, Any]) -> dict[str, Figure]:
    """All figures of the page, each at both widths."""
    singular = material.nouns[1]
    made = {
        "headline": _both(
            "The share of queries whose nearest picture is right", WIDE, headline_bars, _bars(summary)
        )
    }
    curves = _curves(summary)
    after = curves[-1]
    far = after.ks[-1]
    reached = in_100(after.value[-1])
    title = f"Looking at the {far} nearest pictures finds the same {singular} for {reached} in 100 queries"
    made["recall"] = _both(title, MIDDLE, recall_curve, curves, singular)
    pairs = summary["similarity"]
    if "after" in pairs:
        shared = pairs["after"]["overlap"]
        words = "less than 1\u00a0%" if 0 < shared < 0.005 else percent(shared, 0)
        title = f"Positives and negatives overlap in {words} of pairs"
        if "before" in pairs:
            title += f", before training in {percent(pairs['before']['overlap'], 0)}"
        panels, edges = _histograms(summary)
        made["similarity"] = _both(title, MIDDLE, histogram, panels, edges)
    bars = [
        ClassBar(line["name"], f"class-{line['class']}", line["right"], line["queries"])
        for line in summary["classes"]
    ]
    if bars:
        perfect = sum(bar.right == bar.queries for bar in bars)
        worst = bars[-1]
        title = f"{perfect} of {len(bars)} classes are always found; "
        title += f"the worst, {worst.name}, in {worst.right} of {worst.queries} queries"
        made["classes"] = _both(title, WIDE, class_bars, bars)
    chosen = summary["training"].get("chosen")
    if summary["training"]["steps"] or chosen:
        title = "How the training went"
        if chosen:
            title = f"Epoch {chosen['epoch']} was kept: its {_score(chosen)} in validation was the highest"
            if again := as_high_again(material.log):
                title = (
                    f"Epoch {chosen['epoch']} was kept: the first of {again + 1} with the highest "
                    f"{_score(chosen)} in validation"
                )
        name = of_validation(material.validation_seen)
        made["training"] = _both(title, MIDDLE, training_curves, material.log, name)
    return made


def _score(validation: Mapping[str, Any]) -> str:
    """The number that decided, in words."""
    if validation.get("map_at_r") is not None:
        return f"MAP@R of {percent(validation['map_at_r'])}"
    value = validation.get("recall_at_1")
    return "value" if value is None else f"recall@1 of {percent(value)}"


def _both(title: str, width: float, draw: Any, *numbers: Any) -> Figure:
    # A figure's numbers come first and its words last; `thing` of the recall curve is such a word.
    if draw in (recall_curve, training_curves):
        curves, thing = numbers
        return Figure(title, draw(curves, width, title, thing), draw(curves, PHONE, title, thing))
    return Figure(title, draw(*numbers, width, title), draw(*numbers, PHONE, title))


def _bars(summary: Mapping[str, Any]) -> list[Bar]:
    bars = []
    for kind, result in summary["results"].items():
        low, high = result["intervals"].get("recall_at_1", (math.nan, math.nan))
        bars.append(Bar(result["name"], kind, result["recall_at_k"]["1"], low, high))
    return bars


def _curves(summary: Mapping[str, Any]) -> list[Curve]:
    curves = []
    for kind, result in summary["results"].items():
        ks = sorted(int(k) for k in result["recall_at_k"])
        value = [result["recall_at_k"][str(k)] for k in ks]
        spans = [
            result["intervals"].get(f"recall_at_{k}", (share, share))
            for k, share in zip(ks, value, strict=True)
        ]
        name = "before" if kind == "before" else kind
        words = {"pixels": "raw pixels", "before": "before training", "after": "after training"}[name]
        curves.append(Curve(words, kind, ks, value, [low for low, _ in spans], [high for _, high in spans]))
    return curves


def _histograms(summary: Mapping[str, Any]) -> tuple[list[Histogram], list[float]]:
    """The panels over one axis; all bins lie on one grid, so the shorter ones begin with empty bins."""
    found = {
        kind: summary["similarity"][kind] for kind in ("before", "after") if kind in summary["similarity"]
    }
    edges: list[float] = max((list(pairs["edges"]) for pairs in found.values()), key=len)
    panels = []
    for kind, pairs in found.items():
        empty = [0.0] * (len(edges) - len(pairs["edges"]))
        positives, negatives = empty + pairs["positives"], empty + pairs["negatives"]
        panels.append(Histogram(summary["results"][kind]["name"], positives, negatives, pairs["threshold"]))
    return panels, edges
