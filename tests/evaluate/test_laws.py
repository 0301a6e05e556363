"""What must not change an evaluation, and in which direction things may move."""

import json
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal

import nearfar.evaluate.comparison
import nearfar.evaluate.ranks
from nearfar.evaluate import TieWarning, neighbours, retrieval

TILES = [1, 7, 64, None]


def quietly(*arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)
        return retrieval(*arguments, **named)


def integer_rows(generator, n=150, dim=3):
    return generator.integers(-2, 3, (n, dim)).astype(np.float32)


def doubled_rows(generator, n=150, dim=37):
    """Random float rows, each about three times, shuffled: their true similarities tie exactly."""
    return generator.standard_normal((n // 3, dim)).astype(np.float32)[generator.integers(0, n // 3, n)]


def collapsed_rows(generator, n=150, dim=37):
    return np.tile(generator.standard_normal(dim).astype(np.float32), (n, 1))


def nearly_collapsed_rows(generator, n=150, dim=37):
    """All similarities within float32 noise of each other, but not equal."""
    return collapsed_rows(generator, n, dim) * (1 + 1e-6 * generator.standard_normal((n, dim))).astype(
        np.float32
    )


ROWS = [integer_rows, doubled_rows, collapsed_rows, nearly_collapsed_rows]


@pytest.mark.parametrize("similarity", ["cosine", "dot", "squared_euclidean"])
@pytest.mark.parametrize("rows", ROWS)
def test_tiles_threads_and_the_way_of_counting_change_nothing(rows, similarity, monkeypatch) -> None:
    generator = np.random.default_rng(3)
    x, labels = rows(generator), generator.integers(0, 30, 150)
    results = [quietly(x, labels, similarity=similarity, tile=tile, workers=1) for tile in TILES]
    results.append(quietly(x, labels, similarity=similarity, workers=3))
    monkeypatch.setattr(nearfar.evaluate.ranks, "_EXACT_BELOW", 10**9)  # float64 over whole rows
    results.append(quietly(x, labels, similarity=similarity))
    monkeypatch.setattr(nearfar.evaluate.ranks, "_EXACT_BELOW", 0)  # float32 strips wherever possible
    for share in (0.0, 1.0):
        monkeypatch.setattr(nearfar.evaluate.ranks, "_SORT_ALL_ABOVE", share)
        results.append(quietly(x, labels, similarity=similarity))
    for name, values in results[0].per_query.items():
        for other in results[1:]:
            assert_array_equal(values, other.per_query[name], err_msg=name)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean"])
@pytest.mark.parametrize("rows", ROWS)
def test_neighbours_by_every_tile_and_in_exact_order(rows, similarity, monkeypatch) -> None:
    generator = np.random.default_rng(4)
    x = rows(generator)
    found = [neighbours(x, k=20, similarity=similarity, tile=tile) for tile in TILES]
    monkeypatch.setattr(sys.modules[neighbours.__module__], "_CROWD", -20)  # every query by float64 rows
    found.append(neighbours(x, k=20, similarity=similarity))
    for other in found[1:]:
        assert_array_equal(found[0].ids, other.ids)
        assert_array_equal(found[0].similarity, other.similarity)
    comparison = nearfar.evaluate.comparison.EmbeddingComparison(x, x, similarity=similarity)
    for i in range(0, 150, 10):
        others = np.delete(np.arange(150), i)
        scores = comparison.pairs(np.full(149, i), others)
        assert_array_equal(found[0].ids[i], others[np.lexsort((others, -scores))][:20])


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_order_of_the_gallery_and_names_of_classes_do_not_matter(seed) -> None:
    generator = np.random.default_rng(seed)
    x, labels = generator.standard_normal((40, 5)), generator.integers(0, 8, 40)
    labels[:2] = 0
    order = generator.permutation(40)
    names = generator.permutation(1000)[:8]
    one, other = retrieval(x, labels), retrieval(x[order], names[labels[order]])
    for name, values in one.per_query.items():
        assert_array_equal(values[order], other.per_query[name], err_msg=name)
    assert one.n_skipped == other.n_skipped


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), rows=st.sampled_from([integer_rows, doubled_rows]))
def test_directions(seed, rows) -> None:
    generator = np.random.default_rng(seed)
    x, labels = rows(generator, 45), generator.integers(0, 9, 45)
    labels[:2] = 0
    by = {ties: quietly(x, labels, ties=ties) for ties in ("index", "optimistic", "pessimistic", "expected")}
    for name in by["index"].per_query:
        low, high = by["pessimistic"].per_query[name], by["optimistic"].per_query[name]
        if "over_hits" in name or "min_last" in name:
            continue  # a later first hit can raise these two
        for ties in ("index", "expected"):
            value = by[ties].per_query[name]
            some = ~np.isnan(value)
            assert (low[some] <= value[some] + 1e-12).all(), name
            assert (value[some] <= high[some] + 1e-12).all(), name
    result = by["index"]
    recall = list(result.recall_at_k.values())
    assert recall == sorted(recall)
    assert (np.diff(result.cmc) >= 0).all()
    per = result.per_query
    some = result.relevant_per_query > 0
    assert (per["map_at_r"][some] <= per["r_precision"][some] + 1e-12).all()
    single = result.relevant_per_query == 1
    assert_array_equal(per["map_at_r"][single], per["precision_at_1"][single])


def test_adding_rows() -> None:
    generator = np.random.default_rng(8)
    x, labels = generator.standard_normal((60, 6)), generator.integers(0, 12, 60)
    gallery, gallery_labels = generator.standard_normal((50, 6)), generator.integers(0, 12, 50)
    plain = retrieval(x, labels, gallery=gallery, gallery_labels=gallery_labels, similarity="euclidean")
    far = retrieval(
        x,
        labels,
        gallery=np.concatenate([gallery, np.full((1, 6), 1e3)]),
        gallery_labels=np.append(gallery_labels, 99),
        similarity="euclidean",
    )
    twice = retrieval(
        np.concatenate([x, x[:1]]),
        np.append(labels, labels[0]),
        gallery=gallery,
        gallery_labels=gallery_labels,
        similarity="euclidean",
    )
    for name, values in plain.per_query.items():
        assert_array_equal(values, far.per_query[name])
        assert_array_equal(np.append(values, values[0]), twice.per_query[name])


def test_perfect_and_collapsed() -> None:
    labels = np.repeat(np.arange(10), 5)
    perfect = retrieval(np.eye(10)[labels], labels)
    for name, values in perfect.per_query.items():
        if not name.startswith(
            ("precision_at_8", "irrecall", "precision_at_4", "map_at_1_over_r", "map_at_2_over_r")
        ):
            assert_array_equal(values, 1.0, err_msg=name)
    generator = np.random.default_rng(0)
    order = generator.permutation(50)
    with pytest.warns(TieWarning, match=r"100\.0 % of the queries"):
        collapsed = retrieval(collapsed_rows(generator, 50), labels[order], ties="expected")
    assert collapsed.tie_sensitive_fraction == 1.0
    assert_allclose(collapsed.recall_at_k[1], 4 / 49)
    assert quietly(np.ones((50, 2)), labels, ties="optimistic").recall_at_k[1] == 1.0


def test_half_precision_noise_and_scale() -> None:
    generator = np.random.default_rng(1)
    x = torch.from_numpy(generator.standard_normal((50, 8)).astype(np.float32))
    labels = torch.from_numpy(generator.integers(0, 10, 50))
    for dtype in (torch.float16, torch.bfloat16):
        assert retrieval(x.to(dtype), labels).map == retrieval(x.to(dtype).double(), labels).map
    for similarity in ("cosine", "dot", "euclidean"):
        plain = retrieval(x, labels, similarity=similarity)
        for scale in (2.0**-70, 2.0**60):
            assert retrieval(x * scale, labels, similarity=similarity).map == plain.map


def test_a_lower_precision_setting_of_torch_changes_nothing() -> None:
    generator = np.random.default_rng(2)
    x, labels = generator.standard_normal((80, 24)), generator.integers(0, 16, 80)
    plain = retrieval(x, labels)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert retrieval(x, labels).to_dict() == plain.to_dict()
    finally:
        torch.set_float32_matmul_precision(before)


def test_intervals_hold_the_mean_and_classes_make_them_wider() -> None:
    generator = np.random.default_rng(6)
    labels = np.repeat(np.arange(20), 10)
    spread = generator.uniform(0.2, 3.0, 20)[labels][:, None]
    x = generator.standard_normal((20, 16))[labels] + spread * generator.standard_normal((200, 16))
    by_class = retrieval(x, labels, bootstrap=400)
    by_query = retrieval(x, labels, bootstrap=400, resample="query")
    macro = retrieval(x, labels, bootstrap=200, average="macro")
    assert by_class.intervals == retrieval(x, labels, bootstrap=400).intervals
    for result in (by_class, by_query, macro):
        for name in ("recall_at_1", "map_at_r", "minp"):
            low, high = result.intervals[name]
            mean = result.recall_at_k[1] if name == "recall_at_1" else getattr(result, name)
            assert low < mean < high
    wide, narrow = (np.diff(r.intervals["map_at_r"])[0] for r in (by_class, by_query))
    assert wide > 1.5 * narrow
    assert retrieval(x, labels).intervals == {}


def test_the_result_prints_and_saves() -> None:
    labels = np.repeat(np.arange(10), 5)
    x = np.random.default_rng(0).standard_normal((50, 4))
    result = retrieval(x, np.append(labels[:-1], 77), bootstrap=50)
    text = str(result)
    assert "Recall@1" in text
    assert "50 queries (1 with nothing relevant), 50 gallery images" in text
    saved = json.loads(json.dumps(result.to_dict()))
    assert saved["recall_at_k"]["1"] == result.recall_at_k[1]
    assert "per_query" not in saved
