"""Neighbours and metrics across ranks: those of one process, to the last bit."""

from typing import Any

import numpy as np
import pytest

import searching_ranks
from nearfar.evaluate import neighbours_across_ranks
from nearfar.evaluate.extent import Extent
from searching_ranks import SIMILARITIES


@pytest.fixture(scope="module", params=[1, 2, 4])
def ranks(request: pytest.FixtureRequest) -> list[dict[str, Any]]:
    """What each of 1, 2 or 4 ranks found; their parts have 200, 3 and 197, or 3, 110, 0 and 87 rows."""
    if request.param == 1:
        return [searching_ranks.search(0, 1)]
    return searching_ranks.run(request.param)


@pytest.mark.parametrize("similarity", SIMILARITIES)
@pytest.mark.parametrize("how", ["among themselves", "in a gallery", "dealt"])
def test_neighbours_are_those_of_one_process(ranks: list[dict[str, Any]], similarity: str, how: str) -> None:
    one, size = searching_ranks.of_one(how, similarity), len(ranks)
    for own, found in enumerate(ranks):
        asked = np.arange(own, 200, size)
        if how == "among themselves":
            asked = searching_ranks.part(size, own)
        assert (found[similarity][how].ids == one.ids[asked]).all()
        assert (found[similarity][how].similarity == one.similarity[asked]).all()


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_metrics_are_those_of_one_process(ranks: list[dict[str, Any]], similarity: str) -> None:
    one = searching_ranks.search(0, 1)[similarity]["measured"]
    for found in ranks:
        measured = found[similarity]["measured"]
        assert measured.keys() == one.keys()
        for name, value in one.items():
            np.testing.assert_array_equal(measured[name], value, err_msg=name)


def test_fewer_queries_than_ranks(ranks: list[dict[str, Any]]) -> None:
    one = searching_ranks.search(0, 1)["fewer queries than ranks"]
    assert one["n_queries"] == 3
    assert all(found["fewer queries than ranks"] == one for found in ranks)


def test_a_gallery_smaller_than_k(ranks: list[dict[str, Any]]) -> None:
    for found in ranks:
        assert (np.sort(found["few"].ids[:, :4]) == np.arange(4)).all()
        assert (found["few"].ids[:, 4:] == -1).all()
        assert (found["few"].similarity[:, 4:] == -np.inf).all()


def test_ranks_refuse_alike(ranks: list[dict[str, Any]]) -> None:
    first = ranks[0]["says"]
    assert all(found["says"] == first for found in ranks)
    assert "1 rows with NaN or infinite values" in first["nan"]
    assert "ask for a whole number of neighbours" in first["k"]
    assert "the galleries of all ranks are empty" in first["empty"]
    if len(ranks) > 1:
        assert f"{5 + 50 * (len(ranks) - 1)}" not in first["places"]
        assert "give gallery_rows, the place of each row in the whole" in first["places"]


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_the_extent_does_not_hang_on_the_order_of_rows(similarity: str) -> None:
    random = np.random.default_rng(0)
    rows = 1e3 + random.standard_normal((1000, 5)) * 10.0 ** random.integers(-8, 3, (1000, 1))
    one = Extent.of(rows[:300], rows, similarity)
    other = Extent.of(rows[:300], random.permutation(rows), similarity)
    assert (one.centre == other.centre).all()
    assert (one.queries, one.gallery) == (other.queries, other.gallery)
    if similarity.endswith("euclidean"):
        np.testing.assert_allclose(one.centre, rows.mean(axis=0), rtol=1e-8)


def test_alone_the_gallery_needs_no_places() -> None:
    x = searching_ranks.rows()
    found = neighbours_across_ranks(x, k=3)
    assert (found.ids == searching_ranks.of_one("among themselves", "cosine").ids[:, :3]).all()
