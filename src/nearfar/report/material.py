"""What a report is made of: pictures, embeddings, results and the story of the run."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nearfar.data.seen import Seen
from nearfar.data.table import Table
from nearfar.errors import DataError
from nearfar.report.decoding import Small

# Called with what is being done, how many steps of it are done, and of how many.
Progress = Callable[[str, int, int], None]


def quiet(*_told: object) -> None:
    """The progress nobody watches."""


# In the order of every bar chart and table: what is compared with what.
KINDS = ("pixels", "before", "after")


@dataclass(frozen=True)
class Material:
    """Everything the report shows; nothing in it is computed from the model again.

    Args:
        test: the test pictures. Row i of every array belongs to row i of this table.
        embeddings: ``"pixels"``, ``"before"`` and ``"after"``: float32 ``[n, dim]``, unit length.
            ``"after"`` is needed, the others are shown when they are there.
        results: ``nearfar.evaluate.RetrievalResult`` under the same keys.
        train: the training pictures.
        log: the lines of ``log.jsonl``.
        config: the configuration, nested as in TOML.
        run: ``command``, ``commit``, ``machine``, ``versions``, ``seconds``, ``seed``, ``started``.
        weights: number of parameters of the model.
        previous: ``result.json`` of the run to compare with.
        defaults: the configuration nobody changed, to tell what this run changed.
        train_pixels: pixel embeddings of ``train``, to find pictures that are in both halves.
        validation: the pictures by which the epoch was chosen.
        trained_classes: names of the classes that the model learned from; none given, those of ``train``.
        lost: sentences that say what the log should tell and does not.
        small: small copies of pictures that were decoded already.
    """

    test: Table
    embeddings: Mapping[str, np.ndarray]
    results: Mapping[str, Any]
    train: Table
    log: Sequence[Mapping[str, Any]] = ()
    config: Mapping[str, Any] = field(default_factory=dict)
    run: Mapping[str, Any] = field(default_factory=dict)
    weights: int = 0
    previous: Mapping[str, Any] | None = None
    defaults: Mapping[str, Any] = field(default_factory=dict)
    train_pixels: np.ndarray | None = None
    validation: Table | None = None
    trained_classes: Sequence[str] = ()
    lost: Sequence[str] = ()
    small: Small = field(default_factory=Small)

    def __post_init__(self) -> None:
        if "after" not in self.embeddings:
            raise DataError("the report needs the embeddings of the trained model; give embeddings['after'].")
        for kind, rows in self.embeddings.items():
            if kind not in KINDS:
                raise DataError(f"embeddings has the key {kind!r}; a report knows {', '.join(KINDS)}.")
            if len(rows) != len(self.test):
                raise DataError(
                    f"embeddings[{kind!r}] has {len(rows)} rows but the test table has {len(self.test)} "
                    "pictures; give one embedding for each."
                )
            if kind not in self.results:
                raise DataError(f"results has no {kind!r}; give one result for each kind of embedding.")

    @property
    def kinds(self) -> list[str]:
        """The kinds of embedding at hand, in the order in which they are shown."""
        return [kind for kind in KINDS if kind in self.embeddings]

    @property
    def pretrained(self) -> bool:
        """Whether the model began from pretrained weights; our own backbones have none."""
        model = self.config.get("model", {})
        return bool(model.get("pretrained", False)) and not str(model.get("backbone", "")).startswith(
            "nearfar/"
        )

    @property
    def names(self) -> dict[str, str]:
        """How each kind is called in words."""
        before = "before training: pretrained features" if self.pretrained else "before training"
        return {"pixels": "raw pixels", "before": before, "after": "after training"}

    @property
    def seen(self) -> Seen:
        """How many of the classes of the test pictures the model learned from."""
        return self._seen(self.test)

    @property
    def validation_seen(self) -> Seen | None:
        """The same of the pictures by which the epoch was chosen; None where they are not known."""
        return None if self.validation is None else self._seen(self.validation)

    @property
    def unseen(self) -> bool:
        """Whether no class of the test pictures occurs among the training pictures."""
        return self.seen.kind == "unseen"

    def _seen(self, table: Table) -> Seen:
        if not self.trained_classes:
            return Seen.between(table, self.train)
        return Seen.of(table, self.trained_classes, self.train.path.tolist() if len(self.train) else None)

    @property
    def nouns(self) -> tuple[str, str]:
        """What one class is called: plural and singular."""
        return _nouns.get(self.test.name.split("/")[0], ("classes", "class"))


_nouns = {
    "objects": ("objects", "object"),
    "furniture": ("pieces of furniture", "piece"),
    "furniture-hard": ("pieces of furniture", "piece"),
    "emoji": ("emoji", "emoji"),
    "kanji": ("characters", "character"),
}
