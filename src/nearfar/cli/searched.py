"""Who searches whom in a table, as its columns say."""

from typing import TYPE_CHECKING, Any

from nearfar.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float, Int64
    from torch import Tensor

    from nearfar.data import Table
    from nearfar.evaluate import RetrievalResult

JUNK = "-1"


def search(
    embeddings: "Float[Tensor, 'n dim']", table: "Table", bootstrap: int
) -> "tuple[str, RetrievalResult]":
    """Let each image search all others or, where the table has these roles, each query the gallery.

    The columns ``camera``, ``sequence`` and ``id`` say which images are no candidates of a query, as
    ``nearfar.evaluate.retrieval`` does with them.

    Returns:
        What was asked, in words, and the result.

    Raises:
        DataError: if there is no query or no gallery.
    """
    import numpy as np

    import nearfar

    rows = np.arange(len(table))
    columns: dict[str, Any] = {"ids": rows}
    rules = []
    if "box" in table.columns:
        rules.append("each image is the part in its box")
    for name, argument, rule in (
        ("camera", "cameras", "images of the query's class and camera are no candidates"),
        ("sequence", "sequences", "images of the query's sequence are no candidates"),
        ("id", "ids", "images with the query's id are no candidates"),
    ):
        if name in table.columns:
            columns[argument] = codes(table.columns[name])
            rules.append(rule)
    labels = table.label
    if "cameras" in columns and JUNK in table.classes:
        labels = np.where(labels == table.classes.index(JUNK), -1, labels)
        rules.append("images of class -1 are no candidates")
    if "group" in table.columns:
        rules.append("the column group is not followed")
    told = "".join(f"; {rule}" for rule in rules)
    settings: dict[str, Any] = {"bootstrap": bootstrap, "across_ranks": True}
    if not {"is_query", "is_gallery"} <= set(table.columns):
        asked = f"{len(table):,} images of {table.class_count():,} classes; each searches all others{told}"
        return asked, nearfar.evaluate.retrieval(embeddings, labels, **columns, **settings)
    query, gallery = (np.flatnonzero(table.columns[role]) for role in ("is_query", "is_gallery"))
    if not len(query) or not len(gallery):
        empty = "is_gallery" if len(query) else "is_query"
        raise DataError(f"{table.name}: no image has {empty}; a search needs both queries and a gallery.")
    asked = f"{len(query):,} queries search a gallery of {len(gallery):,} images{told}"
    sides: dict[str, Any] = {name: values[query] for name, values in columns.items()}
    sides |= {f"gallery_{name}": values[gallery] for name, values in columns.items()}
    return asked, nearfar.evaluate.retrieval(
        embeddings[query],
        labels[query],
        gallery=embeddings[gallery],
        gallery_labels=labels[gallery],
        **sides,
        **settings,
    )


def codes(values: "np.ndarray") -> "Int64[np.ndarray, ' n']":
    """Return a whole number for each value, the same for the same; a missing one is like no other."""
    import numpy as np

    found, place = np.unique(values, return_inverse=True)
    missing = np.flatnonzero(values == "") if values.dtype.kind == "U" else np.array([], np.int64)
    place = place.astype(np.int64)
    place[missing] = len(found) + np.arange(len(missing))
    return place
