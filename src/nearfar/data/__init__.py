"""From files to batches: tables, splits, decoding, augmentation, samplers and packs.

    table = nearfar.data.read_table("objects")
    train, test = nearfar.data.train_and_test(table)

A table and its splits need no torch; it is loaded with the first of ``Images``, ``Augment`` or
``Preprocess``.
"""

import importlib
from typing import TYPE_CHECKING, Any

from nearfar.data import packs
from nearfar.data.contact_sheet import contact_sheet
from nearfar.data.decode import Unreadable, UnreadableImage, decode, find_unreadable
from nearfar.data.reading import read_table
from nearfar.data.samplers import PKSampler, Share, create_sampler
from nearfar.data.split import split_by_class, train_and_test, unseen_classes
from nearfar.data.table import Table

if TYPE_CHECKING:
    from nearfar.data.augment import Augment
    from nearfar.data.images import Images
    from nearfar.data.preprocess import Preprocess

__all__ = [
    "Augment",
    "Images",
    "PKSampler",
    "Preprocess",
    "Share",
    "Table",
    "Unreadable",
    "UnreadableImage",
    "contact_sheet",
    "create_sampler",
    "decode",
    "find_unreadable",
    "packs",
    "read_table",
    "split_by_class",
    "train_and_test",
    "unseen_classes",
]

_homes = {"Augment": "augment", "Images": "images", "Preprocess": "preprocess"}


def __getattr__(name: str) -> Any:
    if name in _homes:
        return getattr(importlib.import_module(f"nearfar.data.{_homes[name]}"), name)
    raise AttributeError(f"module 'nearfar.data' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
