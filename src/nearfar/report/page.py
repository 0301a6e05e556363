"""Write the report: one page that needs nothing else, the picture that people share, and the numbers."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.errors import require
from nearfar.files import write_atomically
from nearfar.printable import written
from nearfar.report.figures import percent, span
from nearfar.report.map import Map, lay_out
from nearfar.report.material import Material, Progress, quiet
from nearfar.report.poster import draw_poster
from nearfar.report.queries import nearest
from nearfar.report.sections import (
    Gallery,
    confusion_cards,
    contact_sheet,
    figures,
    query_rows,
    strip,
    twin_cards,
)
from nearfar.report.summary import Findings, find, sentence, summarise
from nearfar.report.verdict import title_of

RUN_KEYS = ("command", "commit", "machine", "versions", "seconds", "seed", "started", "precision", "device")


def write_report(material: Material, folder: str | Path, *, progress: Progress | None = None) -> Path:
    """Write ``report.html``, ``report.png`` and ``result.json`` into ``folder``.

    Args:
        material: what to report, from ``gather`` or made by hand.
        folder: is made when missing; files of an earlier report are replaced, each at once.
        progress: called with what is being done, how many steps are done, and of how many.

    Returns:
        The path of ``report.html``.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tell = progress or quiet
    seed = int(material.run.get("seed", 0) or 0)
    tell("measure", 0, 4)
    findings = find(material)
    summary = summarise(material, findings)
    tell("map", 1, 4)
    layout = lay_out(material.embeddings["after"], seed)
    summary["map"] = {"method": layout.method, "points": len(layout.rows), "seed": seed}
    tell("pictures", 2, 4)
    gallery = Gallery(material.test, material.small)
    cards = strip(material, gallery, findings, seed)
    page = render(material, summary, findings, layout, gallery, cards)
    tell("write", 3, 4)
    numbers = json.dumps(summary, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_atomically(folder / "result.json", written(numbers))
    write_atomically(folder / "report.png", draw_poster(summary, cards, gallery.thumbnails, material.nouns))
    write_atomically(folder / "report.html", written(page))
    tell("done", 4, 4)
    return folder / "report.html"


def render(
    material: Material,
    summary: Mapping[str, Any],
    findings: Findings,
    layout: Map,
    gallery: Gallery,
    cards: list[dict[str, Any]],
) -> str:
    """Return the page as text."""
    jinja2 = require("jinja2", "train")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("nearfar.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "percent": _percent,
        "span": _span,
        "duration": duration,
        "number": _number,
        "moment": moment,
    }
    folder = files("nearfar.report") / "templates"
    points, sheet = map_points(material, findings, layout, gallery)
    crisp = gallery.thumbnails.crisp
    return environment.get_template("report.html").render(
        css=(folder / "report.css").read_text(encoding="utf-8"),
        js=(folder / "report.js").read_text(encoding="utf-8"),
        summary=summary,
        nouns=material.nouns,
        sentence=sentence(summary, material.nouns),
        figures={name: asdict(figure) for name, figure in figures(material, summary).items()},
        strip=cards,
        queries=query_rows(material, gallery, findings),
        confusions=confusion_cards(material, gallery, findings),
        suspects=twin_cards(gallery, findings.suspects),
        twins=twin_cards(gallery, findings.twins),
        copies=twin_cards(gallery, findings.copies, Gallery(material.train, material.small)),
        worst=list(reversed(summary["classes"]))[:10],
        points=points,
        sheet=sheet.uri,
        layout=layout,
        sheets=[
            contact_sheet(material.train, "used for training", small=material.small),
            contact_sheet(material.test, title_of(material.seen), small=material.small),
        ],
        crisp=crisp,
        small=gallery.thumbnails.shown(52),
        large=gallery.thumbnails.shown(96),
        changes=changes(summary["config"], material.defaults),
        run={key: material.run.get(key) for key in RUN_KEYS},
        chosen=chosen_in_words(summary["chosen"]),
    )


def map_points(material: Material, findings: Findings, layout: Map, gallery: Gallery) -> tuple[str, Any]:
    """The data of the map as JSON that may stand inside a script element, and the sheet of its pictures."""
    rows, labels = layout.rows, material.test.label
    if layout.sampled:
        # Only pictures of the map can be shown as neighbours.
        ids, similarity = nearest(material.embeddings["after"][rows], 5)
    else:
        ids, similarity = findings.ids[:, :5], findings.similarity[:, :5]
    sheet = gallery.thumbnails.sheet(rows.tolist())
    shown = {
        "tile": sheet.tile,
        "columns": sheet.columns,
        "rows": sheet.rows,
        "crisp": gallery.thumbnails.crisp,
        "names": list(material.test.classes),
        "x": np.round(layout.places[:, 0].astype(float), 4).tolist(),
        "y": np.round(layout.places[:, 1].astype(float), 4).tolist(),
        "label": labels[rows].tolist(),
        "right": findings.right[rows].astype(int).tolist(),
        "near": ids.tolist(),
        "similarity": np.round(similarity.astype(float), 2).tolist(),
    }
    # A name may hold "</script>": nothing that opens a tag leaves here unescaped.
    words = json.dumps(shown, separators=(",", ":"), ensure_ascii=False)
    return words.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"), sheet


def changes(config: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """The settings that differ from the defaults: name, value here, default."""
    if not defaults:
        return [(name, _setting(value), "") for name, value in _flat(config)]
    plain = dict(_flat(defaults))
    return [
        (name, _setting(value), _setting(plain[name]) if name in plain else "–")
        for name, value in _flat(config)
        if name not in plain or plain[name] != value
    ]


def chosen_in_words(chosen: Mapping[str, Any]) -> str:
    """What ``auto`` chose, as far as it is known: it decides figures and is part of the result."""
    words = {
        "precision": "{}",
        "device": "on {}",
        "backend": "backend {}",
        "workers": "{} workers",
        "size": "pictures seen at {} px",
    }
    return ", ".join(text.format(chosen[key]) for key, text in words.items() if chosen.get(key) is not None)


def _flat(config: Mapping[str, Any], before: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, value in config.items():
        name = f"{before}{key}"
        found += _flat(value, f"{name}.") if isinstance(value, Mapping) else [(name, value)]
    return found


def _setting(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def duration(seconds: Any) -> str:
    """Seconds as people say them: ``4 min 12 s``."""
    if not isinstance(seconds, int | float):
        return "not known"
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {whole % 60} s" if minutes else f"{whole} s"


def moment(started: Any) -> str:
    """An ISO time as people write it: ``2026-11-22 03:51 UTC``."""
    words = str(started)
    return words[:16].replace("T", " ") + (" UTC" if words.endswith(("+00:00", "Z")) else "")


def _percent(value: float | None, decimals: int = 1) -> str:
    return "–" if value is None else percent(value, decimals)


def _span(interval: list[float] | None) -> str:
    return "" if interval is None or None in interval else span(*interval)


def _number(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
