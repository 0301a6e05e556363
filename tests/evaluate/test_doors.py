"""What a caller hands over: numbers and labels of every kind, taken alike or refused in one sentence."""

import json
import tomllib
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal

import nearfar.evaluate as ev
from nearfar.errors import NearfarError
from nearfar.toml import to_toml

LABELS = np.arange(12) // 3
ROWS = np.random.default_rng(0).standard_normal((12, 8))

# Everything that takes embeddings, by the name of what it takes.
TAKERS = {
    "embeddings": lambda x: ev.retrieval(x, LABELS),
    "gallery": lambda x: ev.retrieval(ROWS, LABELS, gallery=x, gallery_labels=LABELS),
    "queries": lambda x: ev.neighbours(x, k=2),
    "gallery of neighbours": lambda x: ev.neighbours(ROWS, x, 2),
    "queries across ranks": lambda x: ev.neighbours_across_ranks(x, k=2),
    "gallery across ranks": lambda x: ev.neighbours_across_ranks(ROWS, x, 2),
    "embeddings of space": lambda x: ev.space(x, LABELS),
    "embeddings of silhouette": lambda x: ev.silhouette(x, LABELS),
    "embeddings of alignment": lambda x: ev.alignment(x, LABELS),
    "embeddings of uniformity": ev.uniformity,
    "embeddings of spectrum": ev.spectrum,
    "embeddings of clustering": lambda x: ev.clustering(x, LABELS),
    "embeddings of kmeans": lambda x: ev.kmeans(x, 2),
    "init": lambda x: ev.kmeans(ROWS, init=x),
    "first": lambda x: ev.fold_accuracy(x, ROWS, LABELS > 1, folds=2),
    "second": lambda x: ev.fold_accuracy(ROWS, x, LABELS > 1, folds=2),
    "queries of expansion": lambda x: ev.expand_queries(x, k=2),
    "gallery of expansion": lambda x: ev.expand_queries(ROWS, x, k=2),
    "queries of augmentation": lambda x: ev.augment_gallery(x, k=2),
    "queries of re-ranking": ev.KReciprocal,
    "gallery of re-ranking": lambda x: ev.k_reciprocal(ROWS, x),
    "training": lambda x: ev.Whitening(x, 2),
    "embeddings of whitening": ev.Whitening(ROWS, 2),
    "views": lambda x: ev.average_views([ROWS, x]),
    "embeddings of models": lambda x: ev.concatenate_models([ROWS, x]),
    "distances": lambda x: ev.retrieval_by_distance(x, LABELS, np.arange(8) // 2),
}
BY_NAME = pytest.mark.parametrize("name", TAKERS)


@BY_NAME
def test_rows_that_are_not_finite_are_counted(name) -> None:
    for kind in (torch.float16, torch.bfloat16, torch.float32, torch.float64, np.float32):
        broken = torch.from_numpy(ROWS).clone()
        broken[[3, 7, 8], [0, 1, 2]] = torch.tensor([torch.nan, torch.inf, -torch.inf], dtype=torch.float64)
        x = broken.to(kind) if isinstance(kind, torch.dtype) else broken.numpy().astype(kind)
        with pytest.raises(
            NearfarError, match=rf"{name.split()[0]}\S* has 3 rows with NaN or infinite values of 12.* row 3"
        ):
            TAKERS[name](x)


@pytest.mark.parametrize("similarity", ["cosine", "dot", "euclidean", "squared_euclidean"])
def test_every_similarity_refuses_them(similarity) -> None:
    broken = ROWS.copy()
    broken[5, 5] = np.inf
    for call in (
        lambda: ev.retrieval(broken, LABELS, similarity=similarity),
        lambda: ev.retrieval(ROWS, LABELS, gallery=broken, gallery_labels=LABELS, similarity=similarity),
        lambda: ev.neighbours(broken, similarity=similarity),
        lambda: ev.neighbours_across_ranks(broken, similarity=similarity),
    ):
        with pytest.raises(
            NearfarError, match="1 rows with NaN or infinite values of 12, the first is row 5"
        ):
            call()


BAD_ROWS = {
    "one-dimensional": (np.ones(12), r"has shape \(12,\)"),
    "empty": (np.ones((0, 8)), "at least one"),
    "no columns": (np.ones((12, 0)), "at least one"),
    "text": (np.full((12, 8), "a"), "of <U1"),
    "complex": (ROWS + 1j, "of complex128"),
    "complex tensor": (torch.from_numpy(ROWS + 1j), "of complex128"),
    "sparse": (torch.from_numpy(ROWS).to_sparse(), "is sparse"),
    "meta": (torch.empty(12, 8, device="meta"), "on the meta device"),
    "ragged": ([[1.0, 2.0], [1.0]], "no array of numbers"),
    "objects": (np.full((12, 8), "a", object), "other things than numbers"),
}


@pytest.mark.parametrize("kind", BAD_ROWS)
@BY_NAME
def test_what_is_no_matrix_of_numbers_is_said(name, kind) -> None:
    rows, message = BAD_ROWS[kind]
    if name.endswith("across ranks") and message == "at least one":
        rows, message = np.ones((12, 0)), r"\[n, dim\]"  # a rank may have no rows
    with pytest.raises(NearfarError, match=message):
        TAKERS[name](rows)


def test_every_kind_of_real_numbers_is_taken_alike() -> None:
    halves = torch.from_numpy(np.round(ROWS * 4))  # exact in every type
    wanted = ev.retrieval(halves.numpy(), LABELS).per_query["map"]
    forms = [
        halves.to(kind) for kind in (torch.float16, torch.bfloat16, torch.float32, torch.int8, torch.int64)
    ]
    forms += [
        halves.float().requires_grad_(),
        halves.T.contiguous().T,
        halves.expand(12, 8),
        halves.numpy().tolist(),
    ]
    forms += [np.asfortranarray(halves.numpy()), halves.numpy()[::-1][::-1], halves.numpy().astype(object)]
    forms += [halves.numpy().astype(kind) for kind in (np.float16, np.longdouble, np.int16)]
    read_only = halves.numpy().copy()
    read_only.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for x in [*forms, read_only]:
            assert_array_equal(ev.retrieval(x, LABELS).per_query["map"], wanted)
        assert_array_equal(ev.neighbours_across_ranks(read_only, k=3).ids, ev.neighbours(halves, k=3).ids)


LABELLERS = {
    "retrieval": lambda y: ev.retrieval(ROWS, y),
    "gallery": lambda y: ev.retrieval(ROWS, LABELS, gallery=ROWS, gallery_labels=y),
    "by distance": lambda y: ev.retrieval_by_distance(np.abs(ROWS @ ROWS.T), y),
    "space": lambda y: ev.space(ROWS, y),
    "silhouette": lambda y: ev.silhouette(ROWS, y).tolist(),
    "alignment": lambda y: ev.alignment(ROWS, y),
    "clustering": lambda y: ev.clustering(ROWS, y),
    "agreement": lambda y: ev.agreement(y, LABELS),
    "clusters": lambda y: ev.agreement(LABELS, y),
    "ids": lambda y: ev.neighbours(ROWS, ROWS, ids=y, gallery_ids=LABELS).ids.tolist(),
    "cameras": lambda y: ev.retrieval(ROWS, LABELS % 2, cameras=y),
}


@pytest.mark.parametrize("name", LABELLERS)
def test_labels_in_a_column_are_labels(name) -> None:
    def plain(value):
        return value.to_dict() if hasattr(value, "to_dict") else value

    for labels in (LABELS, (LABELS > 1).astype(int)):
        wanted = plain(LABELLERS[name](labels))
        for form in (
            labels[:, None],
            torch.from_numpy(labels)[:, None],
            torch.from_numpy(labels).int(),
            labels.tolist(),
        ):
            assert plain(LABELLERS[name](form)) == wanted


@pytest.mark.parametrize("name", LABELLERS)
@pytest.mark.parametrize(
    "labels",
    [
        LABELS.astype(float),
        LABELS > 1,
        (LABELS > 1)[:, None],
        [str(label) for label in LABELS],
        LABELS[:, None, None],
        np.stack([LABELS, LABELS], 1),
        LABELS.astype(np.uint64) + 2**63,
        LABELS[:-1],
    ],
    ids=["float", "bool", "bool column", "text", "3-d", "two columns", "beyond int64", "short"],
)
def test_what_is_no_label_is_said(name, labels) -> None:
    with pytest.raises(NearfarError, match=r"integer|rows but|multi-hot|beyond int64|has shape"):
        LABELLERS[name](labels)


def test_rows_without_a_label_in_retrieval() -> None:
    labels = np.where(np.arange(12) % 4 == 3, -1, LABELS)
    kept = labels != -1
    with pytest.warns(UserWarning, match=r"3 of 12 labels are -1.*give the evaluation unlabelled=-1"):
        ev.retrieval(ROWS, labels)
    left = ev.retrieval(ROWS, labels, unlabelled=-1, bootstrap=20)
    wanted = ev.retrieval(ROWS[kept], labels[kept], bootstrap=20)
    assert left.to_dict() | {"settings": {}} == wanted.to_dict() | {"settings": {}}
    assert (left.n_queries, left.n_gallery) == (9, 9)
    for name, values in wanted.per_query.items():
        assert_array_equal(left.per_query[name][kept], values)
        assert np.isnan(left.per_query[name][~kept]).all()
    for more in ({"no_relevant": "zero"}, {"average": "macro"}, {"ties": "expected"}, {"ids": np.arange(12)}):
        named = {name: value[kept] if name == "ids" else value for name, value in more.items()}
        both = (
            ev.retrieval(ROWS, labels, unlabelled=-1, **more),
            ev.retrieval(ROWS[kept], labels[kept], **named),
        )
        assert both[0].to_dict() | {"settings": {}} == both[1].to_dict() | {"settings": {}}
    distances = np.round(np.abs(ROWS[:, None] - ROWS).sum(axis=2), 3)
    one = ev.retrieval_by_distance(distances, labels, unlabelled=-1)
    assert one.map == ev.retrieval_by_distance(distances[kept][:, kept], labels[kept]).map
    gallery = ev.retrieval(
        ROWS[:6],
        LABELS[:6],
        gallery=ROWS,
        gallery_labels=labels,
        unlabelled=-1,
        ids=np.arange(6),
        gallery_ids=np.arange(12),
    )
    assert gallery.n_gallery == 9
    with warnings.catch_warnings():
        warnings.simplefilter(
            "error"
        )  # distractors of the gallery, junk of the camera protocol: as they were
        ev.retrieval(ROWS, LABELS, gallery=ROWS, gallery_labels=labels)
        ev.retrieval(ROWS, labels, cameras=np.arange(12))
    with pytest.raises(NearfarError, match="nothing is left"):
        ev.retrieval(ROWS, np.full(12, -1), unlabelled=-1)
    with pytest.raises(NearfarError, match=r"unlabelled is 1\.5"):
        ev.retrieval(ROWS, LABELS, unlabelled=1.5)
    with pytest.raises(NearfarError, match="unlabelled is one of the integer labels"):
        ev.retrieval(ROWS, np.eye(12, dtype=int), unlabelled=-1)


def test_ids_that_come_twice_are_said() -> None:
    """64 rows of which the last 14 are those of the start again, as a sampler of ranks pads the last batch."""
    rows, labels = np.random.default_rng(1).standard_normal((50, 6)), np.arange(50) // 5
    padded, ids = np.concatenate([rows, rows[:14]]), np.arange(64) % 50
    with pytest.warns(
        ev.RepeatedIdWarning,
        match=r"14 of 64 rows have an id that is there already in ids, the first is row 50",
    ) as told:
        ev.retrieval(padded, labels[ids], ids=ids)
    assert "np.unique(ids, return_index=True)[1]" in str(told[0].message)
    keep = np.unique(ids, return_index=True)[1]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = ev.retrieval(padded[keep], labels[ids][keep], ids=ids[keep])
    assert once.to_dict() == ev.retrieval(rows, labels).to_dict()
    with pytest.warns(ev.RepeatedIdWarning, match="14 of 64 rows .* in gallery_ids"):
        ev.retrieval(
            rows, labels, gallery=padded, gallery_labels=labels[ids], ids=np.arange(50), gallery_ids=ids
        )
    distances = 1 - padded @ padded.T
    with pytest.warns(ev.RepeatedIdWarning, match="14 of 64 rows"):
        ev.retrieval_by_distance(distances, labels[ids], ids=ids)


SETTINGS = {
    "ks": [
        5,
        "12",
        None,
        (),
        (0,),
        (-1,),
        (1.5,),
        (True, 2),
        ("a",),
        (None,),
        (float("nan"),),
        (float("inf"),),
        (2**70,),
        np.ones((2, 2)),
    ],
    "cmc_length": [0, -1, 2.5, True, None, "a", 10**12],
    "bootstrap": [-1, 2.5, True, None, "a", float("nan")],
    "seed": [-1, 1.5, None],
    "tile": [0, -1, 1.5],
    "workers": [0, -1, 1.5],
    "similarity": [None, "cos", 3],
    "ties": [None, "first"],
    "no_relevant": [None],
    "average": [None],
    "resample": [None],
}


@pytest.mark.parametrize(
    ("name", "value"), [(n, v) for n, values in SETTINGS.items() for v in values], ids=str
)
def test_settings_that_are_none(name, value) -> None:
    with pytest.raises(NearfarError, match=rf"^{name}"):
        ev.retrieval(ROWS, LABELS, **{name: value})


def test_settings_from_numpy_and_torch() -> None:
    wanted = ev.retrieval(ROWS, LABELS, ks=(1, 2), bootstrap=5, seed=3, cmc_length=7)
    for whole in (np.int64, np.uint8, np.int32, torch.tensor, np.array):
        given = {
            "bootstrap": whole(5),
            "seed": whole(3),
            "cmc_length": whole(7),
            "tile": whole(4),
            "workers": whole(1),
        }
        result = ev.retrieval(ROWS, LABELS, ks=[whole(2), whole(1), whole(2)], **given)
        assert result.to_dict() == wanted.to_dict()
        assert ev.neighbours(ROWS, k=whole(3)).ids.shape == (12, 3)
    assert ev.retrieval(ROWS, LABELS, ks=np.array([1, 2])).recall_at_k.keys() == {1, 2}
    assert ev.retrieval(ROWS, LABELS, ks=torch.tensor([1, 2])).recall_at_k.keys() == {1, 2}
    for k in (0, -1, 2.5, True, "a", None, float("nan"), 2**40):
        for search in (ev.neighbours, ev.neighbours_across_ranks):
            with pytest.raises(NearfarError, match=r"^k is"):
                search(ROWS, k=k)


@pytest.mark.parametrize("ties", ["index", "optimistic", "pessimistic", "expected"])
def test_cut_offs_beyond_the_gallery(ties) -> None:
    rows = np.repeat(ROWS[:6], 2, 0)  # ties
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ev.TieWarning)
        result = ev.retrieval(rows, LABELS, ks=(1, 12, 500, 2**31 - 1), cmc_length=40, ties=ties)
    assert (result.recall_at_k[12], result.recall_at_k[500], result.recall_at_k[2**31 - 1]) == (1, 1, 1)
    assert result.ndcg_at_k[500] == result.ndcg_at_k[2**31 - 1]
    assert result.map_at_k_over_r[500] == pytest.approx(result.map)
    assert_array_equal(result.cmc[12:], np.ones(28))


def all_results():
    return [
        ev.retrieval(ROWS, LABELS, bootstrap=np.int64(20), ks=np.array([1, 2]), unlabelled=np.int64(9)),
        ev.clustering(ROWS, LABELS, seed=np.int64(3)),
        ev.space(ROWS.astype(np.float32), LABELS),
        ev.verification(ROWS.ravel(), np.arange(96) % 2, far=np.array([0.5, 0.1])),
        ev.verification([0.1, 0.9], [1, 0], far=(0.0,)),
        ev.fold_accuracy(ROWS, ROWS + 0.1, LABELS > 1, folds=np.int64(2)),
    ]


def test_results_are_plain_numbers() -> None:
    def kinds(value):
        if isinstance(value, dict):
            assert all(type(key) is str for key in value)
            return {kind for each in value.values() for kind in kinds(each)}
        return {kind for each in value for kind in kinds(each)} if type(value) is list else {type(value)}

    for result in all_results():
        values = result.to_dict()
        assert kinds(values) <= {int, float, str}
        assert json.loads(json.dumps(values, allow_nan=False)) == values
        assert tomllib.loads(to_toml(values)) == values


def test_results_are_short_in_a_notebook() -> None:
    long = np.random.default_rng(0).standard_normal((300, 8)), np.arange(300) // 3
    found = ev.neighbours(long[0], k=50)
    for result in [
        *all_results(),
        ev.retrieval(*long, ks=(1, 2, 4, 8, 16, 32)),
        found,
        ev.kmeans(long[0], 30),
    ]:
        assert len(repr(result)) < 420, repr(result)
        assert "array" not in repr(result)
        assert "\n" not in repr(result)
    for result in all_results():
        page = result._repr_html_()
        assert page.startswith("<pre>")
        assert len(page) < 700
        assert str(result).splitlines()[0] in page
    assert repr(found) == "Neighbours(300 queries, k=50)"
