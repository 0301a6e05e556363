"""What training saw of the classes that are measured: the fact, and the sentence about it."""

import numpy as np
import pytest

from nearfar.data.seen import Seen
from nearfar.data.table import Table


def table(classes: str, per_class: int = 2, place: str = "a") -> Table:
    """Return images of classes named by single letters, in folders of ``place``."""
    names = tuple("abcdef")
    labels = np.repeat([names.index(letter) for letter in classes], per_class).astype(np.int64)
    paths = [f"/{place}/{names[label]}-{number % per_class}.png" for number, label in enumerate(labels)]
    return Table(np.array(paths, dtype=object), labels, names)


@pytest.mark.parametrize(
    ("tested", "trained", "kind", "seen", "words"),
    [
        ("cd", "ab", "unseen", 0, "Training saw none of these 2 classes."),
        ("ab", "abc", "seen", 2, "Training saw all of these 2 classes, so the figures do not tell how new"),
        ("abc", "cd", "some", 1, "Training saw 1 of these 3 classes, so the figures do not tell how new"),
        ("c", "cd", "seen", 1, "Training saw this class, so"),
        ("c", "d", "unseen", 0, "Training saw none of this class."),
        ("ab", "", "unknown", None, "Whether training saw these 2 classes is not known."),
    ],
)
def test_classes(tested, trained, kind, seen, words):
    found = Seen.of(table(tested), list(trained))
    assert (found.kind, found.classes, found.seen) == (kind, len(tested), seen)
    assert found.sentence.startswith(words)
    assert Seen.from_dict(found.to_dict()) == found


def test_the_names_count_and_not_the_numbers():
    other = Table(np.array(["/x/1.png", "/x/2.png"], dtype=object), np.array([0, 1]), ("b", "z"))
    assert Seen.between(other, table("ab")).seen == 1


def test_images_that_were_learned_from():
    train = table("ab")
    assert Seen.between(table("ab"), train).learned == 4
    assert "learned from all of these 4 images themselves" in Seen.between(table("ab"), train).sentence
    assert Seen.between(table("abc"), train).learned == 4
    assert "learned from 4 of these 6 images" in Seen.between(table("abc"), train).sentence
    assert Seen.between(table("ab", place="elsewhere"), train).learned == 0
    assert "themselves" not in Seen.between(table("ab", place="elsewhere"), train).sentence
    assert Seen.of(table("ab"), ["a"]).learned is None


def test_a_class_without_images_was_not_seen():
    train = table("ab")
    assert Seen.between(table("bc"), train.select(np.array([0, 1]))).kind == "unseen"
    assert Seen.between(table("bc"), train.select(np.array([], np.int64))).kind == "unknown"


@pytest.mark.parametrize("told", [{}, {"seen": "three"}, {"seen": -1, "classes": True}, {"seen": None}])
def test_what_was_not_written_is_not_known(told):
    assert Seen.from_dict(told).kind == "unknown"
