"""The report as files: JSON, Markdown, a picture."""

import json
from dataclasses import asdict
from pathlib import Path

from nearfar.bench.busy import BusyReport
from nearfar.bench.losses import Report
from nearfar.bench.tables import busy_markdown, markdown
from nearfar.errors import DataError
from nearfar.files import write_atomically


def check_folder(folder: Path) -> None:
    """Refuse a folder that cannot be written to, before anything is measured.

    Raises:
        DataError: if the place is taken by a file.
    """
    if folder.exists() and not folder.is_dir():
        raise DataError(f"{folder} is a file; give a folder to write the results to.")
    folder.mkdir(parents=True, exist_ok=True)


def write_json(report: Report | BusyReport, folder: Path, name: str) -> Path:
    """Write ``name``.json."""
    path = folder / f"{name}.json"
    write_atomically(path, json.dumps(asdict(report), indent=1) + "\n")
    return path


def write(report: Report, folder: Path, name: str = "losses") -> list[Path]:
    """Write ``name``.json, .md and .png into ``folder`` and return their paths."""
    from nearfar.bench.picture import draw

    picture, text = folder / f"{name}.png", folder / f"{name}.md"
    write_atomically(picture, draw(report))
    write_atomically(text, markdown(report, picture.name))
    return [write_json(report, folder, name), text, picture]


def write_busy(report: BusyReport, folder: Path, name: str = "losses-busy") -> list[Path]:
    """Write ``name``.json and .md into ``folder`` and return their paths."""
    text = folder / f"{name}.md"
    write_atomically(text, busy_markdown(report))
    return [write_json(report, folder, name), text]
