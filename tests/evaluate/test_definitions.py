"""Every metric against nested loops on small problems with many ties, every exclusion and every tie rule."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from scipy import sparse

from nearfar.errors import NearfarError
from nearfar.evaluate import RepeatedIdWarning, TieWarning, retrieval, retrieval_by_distance
from ranking_oracle import of_query

TIES = ["index", "optimistic", "pessimistic", "expected"]
KS = (1, 2, 3, 5)


def quietly(*arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)
        warnings.simplefilter("ignore", RepeatedIdWarning)
        return retrieval(*arguments, **named)


@st.composite
def problems(draw):
    """Queries and gallery on a coarse grid (exact ties), with any of the exclusions."""
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    q, g, width = draw(st.integers(1, 4)), draw(st.integers(1, 6)), draw(st.integers(1, 3))
    kinds = draw(st.sets(st.sampled_from(["ids", "cameras", "sequences", "junk", "relevant", "multi"])))
    problem = {
        "embeddings": generator.integers(-1, 2, (q, width)).astype(np.float32),
        "gallery": generator.integers(-1, 2, (g, width)).astype(np.float32),
        "labels": generator.integers(0, 3, q),
        "gallery_labels": generator.integers(-1 if "cameras" in kinds else 0, 3, g),
    }
    if "multi" in kinds and "cameras" not in kinds:
        problem["labels"] = generator.random((q, 3)) < 0.5
        problem["gallery_labels"] = generator.random((g, 3)) < 0.5
    for name, top in (("ids", 4), ("cameras", 2), ("sequences", 4)):
        if name in kinds:
            problem[name] = generator.integers(0, top, q)
            problem[f"gallery_{name}"] = generator.integers(0, top, g)
    if "junk" in kinds:
        problem["junk"] = generator.random((q, g)) < 0.2
    if "relevant" in kinds:
        problem["relevant"] = generator.random((q, g)) < 0.4
    return problem


def masks(problem) -> tuple[np.ndarray, np.ndarray]:
    q, g = len(problem["embeddings"]), len(problem["gallery"])
    relevant, kept = np.zeros((q, g), bool), np.ones((q, g), bool)
    for i in range(q):
        for j in range(g):
            own, other = problem["labels"][i], problem["gallery_labels"][j]
            relevant[i, j] = (own & other).any() if np.ndim(own) else own == other
            for name in ("ids", "sequences"):
                if name in problem and problem[name][i] == problem[f"gallery_{name}"][j]:
                    kept[i, j] = False
            if "cameras" in problem:
                same = problem["cameras"][i] == problem["gallery_cameras"][j]
                if other == -1 or (own == other and same):
                    kept[i, j] = False
            if "junk" in problem and problem["junk"][i, j]:
                kept[i, j] = False
    return problem.get("relevant", relevant), kept


@settings(max_examples=60, deadline=None)
@given(
    problem=problems(), ties=st.sampled_from(TIES), similarity=st.sampled_from(["dot", "euclidean", "cosine"])
)
def test_small_problems(problem, ties, similarity):
    relevant, kept = masks(problem)
    left, right = problem["embeddings"].astype(float), problem["gallery"].astype(float)
    scores = {
        "dot": left @ right.T,
        "euclidean": -((left[:, None] - right) ** 2).sum(axis=2),
        "cosine": np.round(
            (left @ right.T)
            / np.maximum(np.linalg.norm(left, axis=1)[:, None] * np.linalg.norm(right, axis=1), 1e-30),
            9,
        ),
    }[similarity]
    expected = [of_query(list(scores[i]), relevant[i], kept[i], ties, KS) for i in range(len(left))]
    if not kept.any(axis=0).any() or not any(expected):
        with pytest.raises(NearfarError, match=r"relevant image|nothing is left"):
            quietly(**problem, ks=KS, ties=ties, similarity=similarity)
        return
    result = quietly(**problem, ks=KS, ties=ties, similarity=similarity)
    assert result.n_skipped == expected.count(None)
    for name, values in result.per_query.items():
        wanted = [np.nan if each is None else each[name] for each in expected]
        assert_allclose(values, wanted, atol=1e-12, err_msg=name)
        mean = np.nanmean(wanted)
        field = name if hasattr(result, name) else None
        if field:
            assert_allclose(getattr(result, field), mean, atol=1e-12)
    assert_allclose(result.cmc[:3], [result.recall_at_k[k] for k in (1, 2, 3)], atol=1e-12)


def test_one_worked_by_hand() -> None:
    # Query at 0, gallery at 1, 2, 3, 4, 5; relevant are the 2nd and the 4th: ranks 2 and 4, R = 2.
    result = retrieval(
        np.array([[0.0]]),
        np.array([7]),
        gallery=np.array([[1.0], [2.0], [3.0], [4.0], [5.0]]),
        gallery_labels=np.array([1, 7, 1, 7, 1]),
        similarity="euclidean",
        ks=(1, 2, 4),
    )
    assert result.recall_at_k == {1: 0.0, 2: 1.0, 4: 1.0}
    assert result.precision_at_k == {1: 0.0, 2: 0.5, 4: 0.5}
    assert result.map_at_r == (1 / 2) / 2
    assert result.map == (1 / 2 + 2 / 4) / 2
    assert result.map_trapezoid == ((0 / 1 + 1 / 2) / 2 + (1 / 3 + 2 / 4) / 2) / 2
    assert (result.r_precision, result.mrr, result.minp) == (0.5, 0.5, 0.5)
    assert_array_equal(result.cmc[:3], [0, 1, 1])
    assert len(result.cmc) == 50  # longer than the gallery: the last value stays


def test_relevance_and_junk_in_every_form() -> None:
    generator = np.random.default_rng(5)
    rows, gallery = generator.standard_normal((6, 4)), generator.standard_normal((9, 4))
    relevant, junk = generator.random((6, 9)) < 0.4, generator.random((6, 9)) < 0.2
    relevant[:, 0] = True
    forms = [
        (relevant, junk),
        (torch.from_numpy(relevant), torch.from_numpy(junk)),
        (torch.from_numpy(relevant).to_sparse_coo(), torch.from_numpy(junk).float().to_sparse_coo()),
        (sparse.csr_array(relevant), sparse.coo_array(junk)),
    ]
    values = [
        retrieval(rows, gallery=gallery, relevant=one, junk=other, seed=i).to_dict()
        for i, (one, other) in enumerate(forms)
    ]
    for each in values:
        each["settings"].pop("seed")
    assert values[0] == values[1] == values[2] == values[3]
    whole = np.zeros(9, bool)
    whole[[2, 5]] = True
    dropped = retrieval(rows, gallery=gallery, relevant=relevant, junk=whole)
    assert dropped.n_gallery == 7
    by_pair = retrieval(rows, gallery=gallery, relevant=relevant, junk=np.tile(whole, (6, 1)))
    assert dropped.per_query["map"].tolist() == by_pair.per_query["map"].tolist()
    distances = (
        1
        - (rows / np.linalg.norm(rows, axis=1)[:, None])
        @ (gallery / np.linalg.norm(gallery, axis=1)[:, None]).T
    )
    given_distances = retrieval_by_distance(distances, relevant=relevant, junk=whole)
    assert given_distances.per_query["map"].tolist() == by_pair.per_query["map"].tolist()


def test_labels_are_integers_all_the_way() -> None:
    # Beyond 2^24 float32 cannot tell neighbours apart, beyond 2^53 float64 cannot.
    base = 2**60
    labels = np.array([base, base + 1, base, base + 1])
    rows = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    assert retrieval(rows, labels).recall_at_k[1] == 0.0
    assert retrieval(rows, labels.tolist()).recall_at_k[1] == 0.0
    with pytest.raises(NearfarError, match="one integer for each image"):
        retrieval(rows, labels.astype(np.float64))


BAD = [
    ({"labels": [0, 1]}, "labels has 2 rows but there are 4 images"),
    ({"labels": None}, "give labels"),
    ({"labels": [0, 1, 2, 3]}, "none of the 4 queries has a relevant image"),
    ({"gallery_labels": [0, 0, 1, 1]}, "gallery_labels is given but gallery is not"),
    ({"gallery": np.ones((2, 3))}, "gallery_labels is not"),
    ({"gallery": np.ones((2, 5)), "gallery_labels": [0, 1]}, "3 dimensions and the gallery has 5"),
    ({"similarity": "cosin"}, "Did you mean 'cosine'"),
    ({"ties": "first"}, "use one of index, optimistic"),
    ({"ks": ()}, "cut-offs are whole numbers"),
    ({"ks": (0, 1)}, "cut-offs are whole numbers"),
    ({"average": "macro", "resample": "query", "bootstrap": 10}, "resample='class'"),
    ({"embeddings": np.full((4, 3), np.nan)}, "4 rows with NaN or infinite values of 4"),
    ({"embeddings": np.zeros((4, 3, 1))}, "\\[n, dim\\]"),
    ({"junk": np.ones(4, bool)}, "nothing is left"),
    ({"junk": np.ones((3, 4), bool)}, "junk has shape"),
    ({"cameras": [0, 0, 1]}, "cameras has 3 rows"),
]


@pytest.mark.parametrize(("change", "message"), BAD, ids=[message[:30] for _, message in BAD])
def test_what_cannot_be_evaluated_is_said(change, message) -> None:
    generator = np.random.default_rng(0)
    good = {"embeddings": generator.standard_normal((4, 3)), "labels": [0, 0, 1, 1]}
    with pytest.raises(NearfarError, match=message):
        retrieval(**(good | change))
