"""How many of the classes that are measured are classes that training learned from: a fact, and its words."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from nearfar.data.table import Table

Kind = Literal["unseen", "seen", "some", "unknown"]


@dataclass(frozen=True)
class Seen:
    """What training saw of the images that a figure is of.

    Attributes:
        classes: classes of those images.
        seen: how many of them training learned from, told by their names; None where nobody knows.
        images: those images.
        learned: how many of the images themselves training learned from, told by their paths; None where
            nobody knows.
    """

    classes: int
    seen: int | None
    images: int = 0
    learned: int | None = None

    @classmethod
    def of(cls, table: Table, trained: Collection[str], paths: Collection[str] | None = None) -> "Seen":
        """Compare a table with the classes, and with the images, that training learned from.

        Args:
            table: the images that are measured.
            trained: names of the classes; none says that they are not known.
            paths: of the images; None says that they are not known.
        """
        names = {table.classes[label] for label in np.unique(table.label)}
        seen = len(names & set(trained)) if trained else None
        known = None if paths is None else set(paths)
        learned = None if known is None else sum(path in known for path in table.path)
        return cls(len(names), seen, len(table), learned)

    @classmethod
    def between(cls, table: Table, train: Table) -> "Seen":
        """Compare a table with the table that training learned from."""
        if not len(train):
            return cls.of(table, ())
        trained = {train.classes[label] for label in np.unique(train.label)}
        return cls.of(table, trained, train.path.tolist())

    @property
    def kind(self) -> Kind:
        """In a word: no class was seen, each was, some were, or it is not known."""
        if self.seen is None:
            return "unknown"
        if self.seen == 0:
            return "unseen"
        return "seen" if self.seen == self.classes else "some"

    @property
    def sentence(self) -> str:
        """What training saw, and what follows for the figure."""
        return f"{self._of_classes()}{self._of_images()}"

    def _of_classes(self) -> str:
        these = "this class" if self.classes == 1 else f"these {self.classes:,} classes"
        match self.kind:
            case "unseen":
                return f"Training saw none of {these}."
            case "seen":
                all_of = "" if self.classes == 1 else "all of "
                return f"Training saw {all_of}{these}, so the figures do not tell how new classes would do."
            case "some":
                return (
                    f"Training saw {self.seen:,} of {these}, so the figures do not tell how new classes "
                    "alone would do."
                )
            case _:
                return f"Whether training saw {these} is not known."

    def _of_images(self) -> str:
        if not self.learned:
            return ""
        which = "all" if self.learned == self.images else f"{self.learned:,}"
        return f" It learned from {which} of these {self.images:,} images themselves."

    def to_dict(self) -> dict[str, Any]:
        """Return the fact as it is written into JSON."""
        return {
            "kind": self.kind,
            "classes": self.classes,
            "seen": self.seen,
            "images": self.images,
            "images_learned_from": self.learned,
        }

    @classmethod
    def from_dict(cls, told: dict[str, Any]) -> "Seen":
        """Return the fact that ``to_dict`` wrote; what is missing or of another kind is not known."""
        numbers = {key: _count(told.get(key)) for key in ("classes", "seen", "images", "images_learned_from")}
        return cls(
            numbers["classes"] or 0, numbers["seen"], numbers["images"] or 0, numbers["images_learned_from"]
        )


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
