"""Runs side by side: seeds of one setting together, each figure with its spread, differences with theirs."""

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.config import Config
from nearfar.data.seen import Seen
from nearfar.errors import CheckpointError
from nearfar.evaluate import retrieval
from nearfar.files import write_atomically
from nearfar.models import Embedder
from nearfar.printable import printable
from nearfar.report.baselines import RESAMPLES
from nearfar.report.decoding import look
from nearfar.report.history import read_history
from nearfar.report.opened import finished_config, open_run, trained_classes
from nearfar.train.folder import FREE, LOG, MODEL
from nearfar.train.precision import choose_device

TEST = "test.json"
REPORT = "result.json"
METRICS = {"recall_at_1": "Recall@1", "map_at_r": "MAP@R"}
# What a run may differ in and still be another seed of the same setting.
SEEDS = (("train", "seed"), *FREE)
# 97.5 % point of the normal distribution, and of Student's t for 1, 2, ... degrees of freedom.
NORMAL = 1.959964
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)

Metric = tuple[float, float, float]
"""Value, low end and high end of its 95 % interval."""


@dataclass(frozen=True)
class Run:
    """One finished run.

    Attributes:
        settings: its configuration as ``{"loss.name": "supcon", …}``, without seeds.
        data: what it was tested on, images and draw of the test classes: runs of other data are not compared.
        figures: share of right answers by metric, each with its bootstrap interval over test classes.
        seconds: of training.
        seen: what training saw of the classes that were tested.
    """

    folder: Path
    settings: Mapping[str, Any]
    seed: int
    data: str
    figures: Mapping[str, Metric]
    seconds: float
    seen: Seen


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed alone."""

    name: str
    data: str
    runs: Sequence[Run]

    def figure(self, metric: str) -> Metric:
        """Mean over the seeds with its Student interval; of a single run the interval over test classes."""
        if len(self.runs) == 1:
            return self.runs[0].figures[metric]
        mean, low, high = mean_and_interval([run.figures[metric][0] for run in self.runs])
        return mean, max(0.0, low), min(1.0, high)

    @property
    def seconds(self) -> float:
        return float(np.mean([run.seconds for run in self.runs]))

    def ahead_of(self, other: "Group", metric: str) -> Metric | None:
        """Mean difference to another setting over the seeds that both have; None for fewer than two."""
        theirs = {run.seed: run.figures[metric][0] for run in other.runs}
        apart = [run.figures[metric][0] - theirs[run.seed] for run in self.runs if run.seed in theirs]
        return mean_and_interval(apart) if len(apart) > 1 else None


def mean_and_interval(values: Sequence[float]) -> Metric:
    """Mean of two or more values with its 95 % interval by Student's t.

    >>> [round(x, 3) for x in mean_and_interval([0.5, 0.6, 0.7])]
    [0.6, 0.352, 0.848]
    """
    mean = float(np.mean(values))
    half = _student(len(values) - 1) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return mean, mean - half, mean + half


def read_runs(folders: Sequence[Path], tell: Callable[[str, int, int], None]) -> list[Run]:
    """Read the test figures of each run; a run that has none yet is tested, and they are kept in it.

    Raises:
        CheckpointError: if a folder is no run, its training is not finished, or its figures cannot be read.
        ConfigError: if the configuration of a run is not one of nearfar's.
    """
    runs = []
    for number, folder in enumerate(folders):
        tell("test", number, len(folders))
        runs.append(_read(folder))
    tell("test", len(folders), len(folders))
    return runs


def group(runs: Sequence[Run]) -> list[Group]:
    """Put seeds together and name each setting by what sets it apart; best Recall@1 first, data by data.

    Raises:
        CheckpointError: if two runs are the same setting with the same seed.
    """
    groups = []
    for data in dict.fromkeys(run.data for run in runs):
        same = [run for run in runs if run.data == data]
        together: dict[str, list[Run]] = {}
        for run in same:
            together.setdefault(_name(run, same), []).append(run)
        for members in together.values():
            seeds = [run.seed for run in members]
            if len(set(seeds)) < len(seeds):
                twins = [run for run in members if seeds.count(run.seed) > 1]
                raise CheckpointError(
                    f"{twins[0].folder} and {twins[1].folder} are the same setting with the same seed "
                    f"{twins[0].seed}; give one of them."
                )
        named = [Group(name, data, members) for name, members in together.items()]
        groups += sorted(named, key=lambda one: -one.figure("recall_at_1")[0])
    return groups


def _read(folder: Path) -> Run:
    config = finished_config(folder)
    log = read_history(folder / LOG).records
    told = [line["seconds"] for line in log if isinstance(line.get("seconds"), int | float)]
    figures, seen = _figures(folder)
    return Run(
        folder,
        _settings(config),
        config.train.seed,
        _data(config),
        figures,
        max(told, default=math.nan),
        seen,
    )


def _data(config: Config) -> str:
    drawn = config.data.split_seed
    return config.data.source + (f", split_seed = {drawn}" if drawn else "")


def _settings(config: Config) -> dict[str, Any]:
    return {
        f"{section}.{key}": value
        for section, inner in config.to_dict().items()
        for key, value in inner.items()
        if (section, key) not in SEEDS
    }


def _figures(folder: Path) -> tuple[dict[str, Metric], Seen]:
    """Return the test figures of a run from its report or from an earlier comparison, else measure them."""
    if (folder / REPORT).is_file():
        return _read_figures(folder / REPORT, _of_report)
    if (folder / TEST).is_file():
        return _read_figures(folder / TEST, _of_test)
    run = open_run(folder, command="evaluate")
    model = Embedder.load(folder / MODEL).to(choose_device("auto"))
    looked = look(run.tables.test, [(model, True)], skip_unreadable=run.config.data.skip_unreadable)
    result = retrieval(looked.embeddings[0], looked.table.label, bootstrap=RESAMPLES)
    told = {
        "figures": {"recall_at_1": float(result.recall_at_k[1]), "map_at_r": float(result.map_at_r)},
        "intervals": {metric: [float(end) for end in result.intervals[metric]] for metric in METRICS},
        "training_saw": Seen.of(
            looked.table, trained_classes(folder), run.tables.train.path.tolist()
        ).to_dict(),
    }
    write_atomically(folder / TEST, json.dumps(told, indent=1) + "\n")
    return _of_test(told)


def _read_figures(file: Path, take: Callable[[Any], tuple[dict[str, Metric], Seen]]) -> tuple[dict, Seen]:
    try:
        return take(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):  # not what nearfar writes there
        raise CheckpointError(
            f"{printable(file)} does not hold the figures of a test; delete it to measure them anew."
        ) from None


def _of_report(told: Any) -> tuple[dict[str, Metric], Seen]:
    after, data = told["results"]["after"], told.get("data", {})
    figures = {"recall_at_1": after["recall_at_k"]["1"], "map_at_r": after["map_at_r"]}
    seen = data.get("training_saw")
    if seen is None and data.get("classes_are_new") is True:  # of a report that told no more
        seen = {"classes": data.get("test", {}).get("classes"), "seen": 0}
    return _of_test({"figures": figures, "intervals": after["intervals"], "training_saw": seen or {}})


def _of_test(told: Any) -> tuple[dict[str, Metric], Seen]:
    figures = {}
    for metric in METRICS:
        low, high = told["intervals"][metric]
        figures[metric] = float(told["figures"][metric]), float(low), float(high)
    return figures, Seen.from_dict(told.get("training_saw", {}))


def _student(freedom: int) -> float:
    """Return the 97.5 % point of Student's t; beyond the table by its expansion (error below 0.003)."""
    if freedom <= len(STUDENT):
        return STUDENT[freedom - 1]
    z = NORMAL
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)


def _name(run: Run, among: Sequence[Run]) -> str:
    """Name a run by what sets it apart: "supcon, memory.size = 8192". What most have goes without saying.

    The settings of a loss are compared with those of other runs of that loss.
    """
    defaults = _settings(Config())
    loss = run.settings["loss.name"]
    parts = [_text(loss)] if any(other.settings["loss.name"] != loss for other in among) else []
    for key in dict.fromkeys(key for other in among for key in other.settings):
        of_loss = key.startswith("loss.")
        peers = [other for other in among if other.settings["loss.name"] == loss] if of_loss else among
        value = run.settings.get(key)
        if key == "loss.name" or value is None:
            continue
        if _text(value) != _usual([other.settings.get(key) for other in peers], defaults.get(key)):
            parts.append(f"{key.removeprefix('loss.')} = {_text(value)}")
    return ", ".join(parts) or _text(loss)


def _usual(values: Sequence[Any], default: Any) -> str:
    """What more runs have than anything else; the default where no value is, or where a run has none."""
    (most, count), *others = Counter(map(_text, values)).most_common()
    if None in values or any(other == count for _, other in others):
        return _text(default)
    return most


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(
            _text(inner) if key == "name" else f"{key}={_text(inner)}" for key, inner in value.items()
        )
    return f"{value:g}" if isinstance(value, float) else str(value)
