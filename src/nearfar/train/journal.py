"""What a run tells: every record to every tracker, and to the person who watches.

Records count epochs from 0, as the schedule does; people are told epochs from 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from nearfar.config import Config
from nearfar.data.seen import Seen
from nearfar.train.environment import arithmetic, environment
from nearfar.train.folder import LOG
from nearfar.train.live import Live
from nearfar.train.mine import Mining
from nearfar.train.precision import Numerics
from nearfar.train.setup import Parts, weight_count
from nearfar.train.tracking import JsonLines, Tracker
from nearfar.train.validate import Validation


class Journal:
    """Tells the log, other trackers and the screen.

    Args:
        folder: of the run.
        config: of the run.
        trackers: beside the log.
        shown: whether a person watches.
        silent: tell nobody anything, the log included: of several ranks one speaks.
    """

    def __init__(
        self,
        folder: Path,
        config: Config,
        *,
        trackers: Sequence[Tracker] = (),
        shown: bool = True,
        silent: bool = False,
    ) -> None:
        self.config = config
        self.path = folder / LOG
        self.more = () if silent else tuple(trackers)
        self.shown = shown and not silent
        self.silent = silent
        self.validated = "in validation"

    def open(self, steps: int, done: int, log_size: int) -> "Journal":
        """Begin at step ``done``; what the log holds beyond ``log_size`` bytes is dropped."""
        self.log = None if self.silent else JsonLines(self.path, log_size)
        self.trackers: tuple[Tracker, ...] = self.more if self.log is None else (self.log, *self.more)
        self.live = Live(steps, done, self.shown)
        self.step = done
        return self

    def __enter__(self) -> "Journal":
        for tracker in self.trackers:
            tracker.start(self.config.to_dict(), self.step)
        self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.live.__exit__(kind, error, trace)
        for tracker in self.trackers:
            tracker.finish()

    def begin(self, parts: Parts, numerics: Numerics, command: str, steps: int) -> None:
        """Tell what runs, on what, where."""
        self._know(parts)
        tables, weights = parts.tables, weight_count([parts.embedder])
        train = parts.images.table.counts()
        counts = {"train": train, "test": tables.test.counts()}
        if tables.validation is not None:
            counts["validation"] = tables.validation.counts()
        counts["training_saw"] = {
            part: Seen.between(table, tables.train).to_dict()
            for part, table in (("test", tables.test), ("validation", tables.validation))
            if table is not None
        }
        run = {"command": command, "seed": self.config.train.seed, **environment(parts.device)}
        self.tell("start", **run, weights=weights, steps=steps, numerics=asdict(numerics), **counts)
        self.live.say(
            f"{train['images']:,} images of {train['classes']:,} classes, seen at "
            f"{parts.embedder.preprocess.size} px, {weights:,} weights, "
            f"{steps:,} steps on {parts.device} in {numerics.precision} ({numerics.reason})"
        )
        for item in parts.images.unreadable:
            self.tell("note", text=f"left out {item.path}: {item.reason}")

    def go_on(self, parts: Parts, before: Mapping[str, Any]) -> None:
        """Tell that a run is resumed, and whether it computes as ``before``: see ``arithmetic``."""
        self._know(parts)
        self.tell("resume", **environment(parts.device))
        self.live.say(f"going on after step {self.step}")
        if self.log is not None and self.log.missing:
            self.warn(
                f"{self.path} was cut: {self.log.missing:,} bytes that it had at this checkpoint are gone, "
                "and the numbers of some steps with them; the weights are not touched by that."
            )
        now = arithmetic(parts.device)
        changed = [
            f"{key} was {before.get(key)} and is {now[key]}" for key in now if before.get(key) != now[key]
        ]
        if changed:
            self.warn(
                f"{', '.join(changed)}: by rounding, the weights will differ from those of a run that went "
                "through in one."
            )

    def _know(self, parts: Parts) -> None:
        """Learn whether the validation is of classes that training sees."""
        if parts.tables.validation is None:
            return
        seen = Seen.between(parts.tables.validation, parts.tables.train)
        words = {
            "unseen": "on held-out classes",
            "seen": "on other images of the classes learned from",
            "some": f"on images of {seen.classes:,} classes, {seen.seen:,} of them learned from",
        }
        self.validated = words.get(seen.kind, self.validated)

    def size(self) -> int:
        """Return the bytes of the log so far."""
        return 0 if self.log is None else self.log.size()

    def numbers(self, record: Mapping[str, Any]) -> None:
        """Tell the numbers of a step."""
        self.tell("step", **record)
        self.live.step(record)

    def validation(self, epoch: int, found: Validation, best: bool) -> None:
        """Tell a validation."""
        self.tell("validation", epoch=epoch, **asdict(found), best=best)
        mark = ", the best so far" if best else ""
        scores = f"recall@1 {found.recall_at_1:.1%}, MAP@R {found.map_at_r:.3f}"
        self.live.say(f"epoch {epoch + 1}: {scores} {self.validated}{mark}")

    def mining(self, found: Mining) -> None:
        """Tell what a mining found."""
        self.tell("mining", **asdict(found))
        hard, semi_hard = found.hard / found.mined, found.semi_hard / found.mined
        apart = f"; {found.suspects:,} pairs look like one thing under two labels and are kept apart"
        self.live.say(
            f"mined {found.mined:,} images: {hard:.0%} have a hard negative, {semi_hard:.0%} a semi-hard one"
            f"{apart if found.suspects else ''}"
        )

    def warn(self, text: str) -> None:
        """Tell that something goes wrong."""
        self.tell("warning", text=text)
        self.live.say(f"warning: {text}")

    def tell(self, kind: str, **record: Any) -> None:
        """Give a record to all trackers."""
        for tracker in self.trackers:
            tracker.log({"kind": kind, "step": self.step, **record})
