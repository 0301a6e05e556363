"""Scores between queries and gallery: fast float32 strips, and one exact score for every pair.

A matrix product gives the same pair another float32 value when the tile or the machine changes. So a product
here only screens: every pair also has one *exact score*, a float64 sum of its own products in a fixed order,
rounded to 1e-12 of its terms, and that score decides what the product leaves within its error bound. Equal
rows then tie exactly, and neither tile size nor device nor any other row changes an answer.
"""

import math
from functools import cached_property
from typing import Literal, Protocol, get_args, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64

from nearfar.errors import NearfarError, suggest
from nearfar.evaluate.extent import Extent
from nearfar.evaluate.rows import BLOCK, fold, in_units, inverse, norms, rows32, squarable
from nearfar.similarity.tiled.matmul import choose_product, relative_error

Similarity = Literal["cosine", "dot", "euclidean", "squared_euclidean"]

_QUANTUM = 1e-12
_DIGITS = 40  # bits that stay of a score that is not a cosine: 1e-12 of it
_COLUMNS = 4096  # of one product: its result is still in the second-level cache when it is copied


def check_similarity(similarity: str) -> None:
    """Refuse an unknown similarity."""
    known = list(get_args(Similarity))
    if similarity not in known:
        raise NearfarError(
            f"similarity {similarity!r} is not known; use one of {', '.join(known)}."
            f"{suggest(similarity, known)}"
        )


@runtime_checkable
class Comparison(Protocol):
    """What ranking needs to know about scores; larger is nearer."""

    n_queries: int
    n_gallery: int
    has_strips: bool
    window64: float

    def fill_strip(
        self,
        queries: Int64[np.ndarray, " some"],
        strip: Float32[np.ndarray, "some gallery"],
        columns: int | None,
    ) -> None:
        """Write float32 scores of some queries with the whole gallery, in ``strip_place`` units."""
        ...

    def strip_place(
        self, queries: Int64[np.ndarray, " pair"], scores: Float64[np.ndarray, " pair"]
    ) -> tuple[Float64[np.ndarray, " pair"], Float64[np.ndarray, " pair"]]:
        """Where an exact score lies in a strip, and how far from there the strip's value can be."""
        ...

    def rows64(self, queries: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, "some gallery"]:
        """Scores in float64, each within ``window64`` of the exact score; 0 says that they are exact."""
        ...

    def pairs(
        self, queries: Int64[np.ndarray, " pair"], gallery: Int64[np.ndarray, " pair"]
    ) -> Float64[np.ndarray, " pair"]:
        """Exact scores of single pairs."""
        ...

    def pairs_of_one(self, query: int, gallery: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, " some"]:
        """Exact scores of one query with many gallery rows."""
        ...


class EmbeddingComparison:
    """Queries against gallery by their embeddings.

    Exact score of a pair, always a float64 sum in one fixed order over the given rows:

        cosine  q·g / (|q| |g|)        dot  q·g        euclidean, squared_euclidean  -|q - g|²

    It is rounded to 40 bits of its own terms, so that what is equal but for rounding ties: cosines to 1e-12,
    dot products to 1e-12 of |q| |g|, distances to 1e-12 of themselves. Rows as long as no square is are taken
    in units of ``Extent``.

    Args:
        queries: rows [q, dim], float32 or float64.
        gallery: rows [g, dim]; the same object as ``queries`` for a set against itself.
        similarity: see above; both euclidean forms rank alike.
        device: where the float32 products run.
        extent: of the whole sets, where these rows are a part of them; else it is measured.
    """

    has_strips = True

    def __init__(
        self,
        queries: Float[np.ndarray, "query dim"],
        gallery: Float[np.ndarray, "gallery dim"],
        *,
        similarity: str = "cosine",
        device: torch.device | None = None,
        extent: Extent | None = None,
    ) -> None:
        check_similarity(similarity)
        if queries.shape[1] != gallery.shape[1]:
            raise NearfarError(
                f"queries have {queries.shape[1]} dimensions and the gallery has {gallery.shape[1]}; "
                "embed both with the same model."
            )
        self.distance = similarity in ("euclidean", "squared_euclidean")
        self.cosine = similarity == "cosine"
        self.similarity = similarity
        same = gallery is queries
        self.extent = extent = extent or Extent.of(queries, gallery, similarity)
        if self.cosine:
            self.queries = squarable(queries)
            self.gallery = self.queries if same else squarable(gallery)
        else:
            self.queries = in_units(queries, extent.query_power)
            self.gallery = self.queries if same else in_units(gallery, extent.gallery_power)
        self.n_queries, self.n_gallery, self.dim = len(queries), len(gallery), queries.shape[1]
        self.device = device or torch.device("cpu")
        self._prepare(extent)
        self._product = choose_product(self.dim, self.device)

    def _prepare(self, extent: Extent) -> None:
        same = self.gallery is self.queries
        centre, longest, largest = extent.centre, extent.queries, extent.gallery
        gallery_norm = norms(self.gallery, centre)
        query_norm = gallery_norm if same else norms(self.queries, centre)
        if self.cosine:
            self._query_inverse, self._gallery_inverse = inverse(query_norm), inverse(gallery_norm)
            self._scale = 1.0
            self._error = np.full(self.n_queries, relative_error(self.dim))
        else:
            self._query_inverse = self._gallery_inverse = np.zeros(0)
            reach = query_norm * largest + (0.5 * largest**2 if self.distance else 0.0)
            self._error = relative_error(self.dim) * reach
            self._scale = (longest + largest) ** 2 if self.distance else longest * largest
        # The coarsest rounding of an exact score.
        self._quantum = _QUANTUM if self.cosine else 2.0 ** (1 - _DIGITS) * (self._scale or 1.0)
        self.window64 = self._quantum + 2 * relative_error(self.dim) * 2.0**-29 * self._scale
        # A power of two brings the longest row near length 1: float32 then neither overflows nor underflows.
        own = [longest, largest] if not self.distance else [max(longest, largest)] * 2
        query_unit, unit = (2.0 ** -math.frexp(each)[1] for each in own)
        self._strip_unit = 1.0 if self.cosine else query_unit * unit
        gallery_factor = self._gallery_inverse if self.cosine else np.full(self.n_gallery, unit)
        self._gallery32 = rows32(self.gallery, centre, gallery_factor).to(self.device)
        if same:
            self._queries32 = self._gallery32
        else:
            query_factor = self._query_inverse if self.cosine else np.full(self.n_queries, query_unit)
            self._queries32 = rows32(self.queries, centre, query_factor).to(self.device)
        self._query_norm, self._gallery_norm = query_norm, gallery_norm
        self._query_square, self._gallery_square = query_norm**2, gallery_norm**2
        self._centre = centre
        self._bias = None
        if self.distance:
            half = (-0.5 * self._strip_unit * self._gallery_square).astype(np.float32)
            self._bias = torch.from_numpy(half).to(self.device)

    def fill_strip(
        self,
        queries: Int64[np.ndarray, " some"],
        strip: Float32[np.ndarray, "some gallery"],
        columns: int | None,
    ) -> None:
        """Float32 scores with the whole gallery: q·g (cosine: of unit rows), or q·g - |g|²/2 (distances)."""
        rows = self._queries32[torch.from_numpy(queries).to(self.device)]
        target = torch.from_numpy(strip)
        step = columns or (_COLUMNS if self.device.type == "cpu" else self.n_gallery)
        for start in range(0, self.n_gallery, step):
            stop = start + step
            bias = None if self._bias is None else self._bias[start:stop]
            target[:, start:stop] = self._product(rows, self._gallery32[start:stop], bias)

    def strip_place(
        self, queries: Int64[np.ndarray, " pair"], scores: Float64[np.ndarray, " pair"]
    ) -> tuple[Float64[np.ndarray, " pair"], Float64[np.ndarray, " pair"]]:
        """Exact scores in the units of a strip, and the bound on the strip's error there."""
        place = (self._query_square[queries] + scores) / 2 if self.distance else scores
        return place * self._strip_unit, (self._error[queries] + self._quantum) * self._strip_unit

    def rows64(self, queries: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, "some gallery"]:
        """Scores with the whole gallery by a float64 product."""
        rows = torch.from_numpy(self.queries[queries].astype(np.float64) - self._centre)
        scores = torch.empty(len(queries), self.n_gallery, dtype=torch.float64)
        for start in range(0, self.n_gallery, 4096):
            block = self.gallery[start : start + 4096].astype(np.float64) - self._centre
            torch.mm(rows, torch.from_numpy(block).T, out=scores[:, start : start + 4096])
        result = scores.numpy()
        if self.cosine:
            result *= self._query_inverse[queries][:, None]
            result *= self._gallery_inverse
        elif self.distance:
            result *= 2
            result -= self._query_square[queries][:, None]
            result -= self._gallery_square
        return result

    def pairs(
        self, queries: Int64[np.ndarray, " pair"], gallery: Int64[np.ndarray, " pair"]
    ) -> Float64[np.ndarray, " pair"]:
        """Exact scores of single pairs."""
        scores = np.empty(len(queries))
        step = max(1, BLOCK // self.dim)
        for start in range(0, len(queries), step):
            some = slice(start, start + step)
            left = self.queries[queries[some]].astype(np.float64)
            if self.distance:
                left -= self.gallery[gallery[some]]
                left *= left
                scores[some] = -fold(left)
            else:
                left *= self.gallery[gallery[some]]
                scores[some] = fold(left)
        if self.cosine:
            scores *= self._query_inverse[queries]
            scores *= self._gallery_inverse[gallery]
            return np.rint(scores / self._quantum) * self._quantum
        size = scores if self.distance else self._query_norm[queries] * self._gallery_norm[gallery]
        place = _DIGITS - np.frexp(size)[1]
        return np.ldexp(np.rint(np.ldexp(scores, place)), -place)

    def pairs_of_one(self, query: int, gallery: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, " some"]:
        """Exact scores of one query with many rows; equal gallery rows are scored once."""
        first = self._first_equal[gallery]
        rows, back = np.unique(first, return_inverse=True)
        return self.pairs(np.full(len(rows), query), rows)[back]

    @cached_property
    def _first_equal(self) -> Int64[np.ndarray, " gallery"]:
        """For each gallery row the first row with the same bytes."""
        keys = self.gallery.view(np.dtype((np.void, self.gallery.dtype.itemsize * self.dim))).ravel()
        _, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        return first[inverse].astype(np.int64)


@runtime_checkable
class DistanceRows(Protocol):
    """Distances made row by row, such as ``nearfar.evaluate.KReciprocal``."""

    shape: tuple[int, int]

    def rows(self, queries: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, "some gallery"]:
        """Distances of some queries with the whole gallery."""
        ...


class GivenComparison:
    """Queries against gallery by distances that are given; they are taken as exact, equal means tied."""

    has_strips = False
    window64 = 0.0

    def __init__(
        self, distances: np.ndarray | DistanceRows, kept: Int64[np.ndarray, " kept"] | None = None
    ) -> None:
        self.distances, self.kept = distances, kept
        self.n_queries, self.n_gallery = distances.shape[0], distances.shape[1] if kept is None else len(kept)

    def rows64(self, queries: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, "some gallery"]:
        """Minus the distances, in float64."""
        given = self.distances
        if isinstance(given, np.ndarray):
            rows = given[queries].astype(np.float64)
        else:
            rows = np.asarray(given.rows(queries), np.float64)
            if rows.shape != (len(queries), given.shape[1]) or not np.isfinite(rows).all():
                raise NearfarError(
                    f"distances.rows gave shape {rows.shape} with {np.count_nonzero(~np.isfinite(rows))} NaN "
                    f"or infinite values; give {len(queries)} queries {given.shape[1]} finite distances each."
                )
        return -(rows if self.kept is None else rows[:, self.kept])

    def pairs_of_one(self, query: int, gallery: Int64[np.ndarray, " some"]) -> Float64[np.ndarray, " some"]:
        """Not used: distances given are already exact."""
        raise NotImplementedError

    def pairs(
        self, queries: Int64[np.ndarray, " pair"], gallery: Int64[np.ndarray, " pair"]
    ) -> Float64[np.ndarray, " pair"]:
        """Not used: distances given are already exact."""
        raise NotImplementedError

    def fill_strip(
        self,
        queries: Int64[np.ndarray, " some"],
        strip: Float32[np.ndarray, "some gallery"],
        columns: int | None,
    ) -> None:
        """Not used: distances given are already exact."""
        raise NotImplementedError

    def strip_place(
        self, queries: Int64[np.ndarray, " pair"], scores: Float64[np.ndarray, " pair"]
    ) -> tuple[Float64[np.ndarray, " pair"], Float64[np.ndarray, " pair"]]:
        """Not used: distances given are already exact."""
        raise NotImplementedError
