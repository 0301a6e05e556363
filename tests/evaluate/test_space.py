"""Measures of the space on models that are collapsed, dead, tiny or huge."""

import json
import math
import warnings

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose, assert_array_equal

from nearfar.errors import NearfarError
from nearfar.evaluate import alignment, silhouette, space, spectrum, uniformity
from nearfar.evaluate.space import SpaceWarning, inter_distance, intra_distance

LABELS = np.arange(12) // 3
GENERATOR = np.random.default_rng(0)
ONE = GENERATOR.standard_normal((1, 8))


def quietly(*arguments, **named):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SpaceWarning)
        return space(*arguments, **named)


def oracle(rows, labels):
    """Cosine distances pair by pair in the longest float; a zero row has cosine 0 with everything."""
    rows = rows.astype(np.longdouble)
    n = len(rows)
    unit = np.array([row / np.sqrt((row**2).sum()) if row.any() else row for row in rows])

    def distance(a, b):
        return ((a - b) ** 2).sum() / 2 if a.any() and b.any() else np.longdouble(1)

    same = [distance(unit[i], unit[j]) for i in range(n) for j in range(i) if labels[i] == labels[j]]
    centres = [unit[labels == c].mean(axis=0) for c in np.unique(labels)]
    centres = [c / np.sqrt((c**2).sum()) if np.abs(c).max() > 1e-6 else 0 * c for c in centres]
    apart = [distance(a, b) for i, a in enumerate(centres) for b in centres[:i]]
    every = [math.exp(-4 * distance(unit[i], unit[j])) for i in range(n) for j in range(n) if i != j]
    return {
        "intra": float(np.mean(same)),
        "inter": float(np.mean(apart)),
        "alignment": 2 * float(np.mean(same)),
        "uniformity": math.log(np.mean(every)),
    }


def collapsed(kind, dtype):
    rows = np.repeat({"random": ONE, "ones": np.ones((1, 8)), "tenths": np.full((1, 8), 0.1)}[kind], 12, 0)
    return rows.astype(dtype)


@pytest.mark.parametrize("kind", ["random", "ones", "tenths"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("noise", [0, 1])
def test_a_collapsed_model(kind, dtype, noise) -> None:
    """All rows equal, or equal but for the last bit of single numbers."""
    rows = collapsed(kind, dtype)
    if noise:
        bits = GENERATOR.integers(-1, 2, rows.shape)
        rows = np.where(
            bits == 0, rows, np.nextafter(rows, np.where(bits > 0, np.inf, -np.inf).astype(dtype))
        )
        assert len(np.unique(rows, axis=0)) == 12
    with pytest.warns(SpaceWarning, match="intra over inter is not defined"):
        result = space(rows, LABELS)
    assert (result.intra, result.inter, result.alignment) == (0.0, 0.0, 0.0)
    assert (result.silhouette_cosine, result.silhouette_euclidean) == (0.0, 0.0)
    assert math.isnan(result.intra_over_inter)
    assert (result.effective_rank, result.spectral_decay, result.uniformity) == (1.0, math.inf, 0.0)
    assert_array_equal(result.singular_values[1:], 0)
    assert "not defined" in str(result)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_collapsed_model_of_torch(dtype) -> None:
    result = quietly(torch.from_numpy(collapsed("random", np.float64)).to(dtype).requires_grad_(), LABELS)
    assert (result.intra, result.inter, result.effective_rank) == (0.0, 0.0, 1.0)


def test_classes_collapsed_each_to_its_point() -> None:
    rows = np.repeat(GENERATOR.standard_normal((4, 8)), 3, 0).astype(np.float32)
    result = space(rows, LABELS)
    assert (result.intra, result.intra_over_inter, result.silhouette_cosine) == (0.0, 0.0, 1.0)
    assert result.inter > 0.1


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_dead_model(dtype) -> None:
    with pytest.warns(SpaceWarning) as told:
        result = space(np.zeros((12, 8), dtype), LABELS)
    sentences = " ".join(str(each.message) for each in told)
    assert "12 of 12 rows are zero" in sentences
    assert "effective rank and spectral decay are not defined" in sentences
    assert (result.intra, result.inter, result.intra_over_inter) == (1.0, 1.0, 1.0)
    assert (result.alignment, result.uniformity) == (2.0, -4.0)
    assert (result.silhouette_cosine, result.silhouette_euclidean) == (0.0, 0.0)
    assert math.isnan(result.effective_rank)
    assert math.isnan(result.spectral_decay)
    json.loads(json.dumps(result.to_dict(), allow_nan=False))
    assert "spectral_decay" not in result.to_dict()  # neither JSON nor TOML would take both NaN and None


def test_zero_rows_among_others() -> None:
    rows, labels = np.array([[1, 0], [0, 0], [0, 1], [0, 0]], float), np.array([0, 0, 1, 1])
    result = quietly(rows, labels)
    assert (result.intra, result.inter, result.intra_over_inter) == (1.0, 1.0, 1.0)
    mixed = GENERATOR.standard_normal((12, 3))
    mixed[[1, 4, 5, 9, 10, 11]] = 0  # one, two and three of a class
    with pytest.warns(SpaceWarning, match="6 of 12 rows are zero"):
        result = space(mixed, LABELS)
    for name, value in oracle(mixed, LABELS).items():
        assert_allclose(getattr(result, name), value, rtol=1e-12, err_msg=name)


SCALES = {
    np.float16: [1, 2.0**9, 2.0**-9],
    np.float32: [1, 1e30, 1e-30],
    np.float64: [1, 1e30, 1e200, 1e-200],
}
CASES = [(dtype, scale) for dtype, scales in SCALES.items() for scale in scales]


@pytest.mark.parametrize("dim", [1, 2, 9])
@pytest.mark.parametrize(("dtype", "scale"), CASES, ids=str)
def test_pair_by_pair(dim, dtype, scale) -> None:
    rows = np.round(np.random.default_rng(dim).standard_normal((12, dim)), 1).astype(np.float16)
    x = rows.astype(np.float64) * 2.0 ** np.round(np.log2(scale))
    rows, x = (
        np.where(np.abs(rows) < 0.1, 1, rows),
        np.where(np.abs(rows) < 0.1, 2.0 ** np.round(np.log2(scale)), x),
    )
    x = x.astype(dtype)
    result = quietly(x, LABELS)
    expected = oracle(rows.astype(np.float64), LABELS)
    for name, value in expected.items():
        assert_allclose(getattr(result, name), value, rtol=1e-9, err_msg=name)
    assert_allclose(intra_distance(x, LABELS), expected["intra"], rtol=1e-9)
    assert_allclose(inter_distance(x, LABELS), expected["inter"], rtol=1e-9)
    assert -1 <= result.silhouette_euclidean <= 1
    if dim == 1:
        assert (result.effective_rank, result.spectral_decay) == (1.0, 0.0)


@pytest.mark.parametrize("metric", ["euclidean", "cosine"])
def test_silhouette_far_from_the_origin(metric) -> None:
    """Two pairs of clusters, each a thousandth wide, a thousand away: a difference of squares is noise there."""
    generator = np.random.default_rng(1)
    centre = 1e3 * np.repeat(generator.standard_normal((2, 5)), 6, 0)
    rows = (
        centre
        + 1e-4 * np.repeat(generator.standard_normal((4, 5)), 3, 0)
        + 1e-5 * generator.standard_normal((12, 5))
    )
    far = rows.astype(np.longdouble)
    if metric == "cosine":
        far = far / np.sqrt((far**2).sum(axis=1, keepdims=True))
    squared = ((far[:, None] - far) ** 2).sum(axis=2)
    distance = squared / 2 if metric == "cosine" else np.sqrt(squared)
    expected = []
    for i in range(12):
        own = [distance[i, j] for j in range(12) if j != i and LABELS[j] == LABELS[i]]
        others = [distance[i, c == LABELS].mean() for c in range(4) if c != LABELS[i]]
        expected.append(float((min(others) - np.mean(own)) / max(min(others), np.mean(own))))
    assert_allclose(silhouette(rows, LABELS, metric=metric), expected, atol=1e-6)


def test_directions_that_cancel() -> None:
    """A class of x and -x has no direction: its centre is no rounding noise made long."""
    half = GENERATOR.standard_normal((4, 5)).astype(np.float32)
    rows, labels = np.concatenate([half, -3 * half]), np.tile(np.arange(4), 2)
    assert inter_distance(rows, labels) == 1.0
    assert_allclose(quietly(rows, labels).intra, 2.0)


def test_a_missing_direction() -> None:
    rows = GENERATOR.standard_normal((40, 6)).astype(np.float32)
    flat = rows @ GENERATOR.standard_normal((6, 9)).astype(np.float32)
    result = quietly(flat, np.arange(40) // 4)
    assert (np.count_nonzero(result.singular_values), result.spectral_decay) == (6, math.inf)
    assert np.count_nonzero(spectrum(flat)) == 6
    assert result.effective_rank <= 6


@pytest.mark.parametrize(
    ("rows", "labels", "message"),
    [
        (np.ones((1, 3)), [0], "all rows have the same label"),
        (np.eye(2), [0, 0], "all rows have the same label"),
        (np.eye(2), [0, 1], "no class has two images"),
        (np.eye(4), [5, 5, 5, 5], "all rows have the same label"),
        (np.eye(4), [0, 1, 2, 3], "no class has two images"),
        (np.eye(4), [0, 0, 1], "labels has 3 rows but there are 4 images"),
        (
            np.array([[0.0, np.nan], [1, 1], [1, 2], [np.inf, 0]]),
            [0, 0, 1, 1],
            "2 rows with NaN or infinite values of 4",
        ),
        (np.zeros((0, 4)), [], "at least one"),
    ],
)
def test_what_has_no_space_is_said(rows, labels, message) -> None:
    with pytest.raises(NearfarError, match=message):
        space(rows, labels)


def test_the_measures_alone() -> None:
    with pytest.raises(NearfarError, match="there is one row"):
        uniformity(np.ones((1, 4)))
    with pytest.raises(NearfarError, match="no class has two images"):
        alignment(np.eye(3), [0, 1, 2])
    with pytest.raises(NearfarError, match="two or more"):
        inter_distance(np.eye(3), [1, 1, 1])
    with pytest.raises(NearfarError, match="t is -1"):
        uniformity(np.eye(3), t=-1)
    assert uniformity(np.eye(3), t=2000.0) == -4000.0
    assert alignment(np.ones((3, 4)), [0, 0, 1]) == 0.0


def test_rows_without_a_label_are_left_out() -> None:
    rows, labels = GENERATOR.standard_normal((16, 5)), np.append(LABELS, [-1, -1, -1, -1])
    with pytest.warns(UserWarning, match=r"4 of 16 labels are -1.*unlabelled=-1"):
        space(rows, labels)
    wanted = space(rows[:12], LABELS)
    assert space(rows, labels, unlabelled=-1).to_dict() == wanted.to_dict()
    assert_array_equal(silhouette(rows, labels, unlabelled=-1), silhouette(rows[:12], LABELS))
    assert alignment(rows, labels, unlabelled=np.int64(-1)) == wanted.alignment
    assert space(rows[:12], LABELS, unlabelled=-1).to_dict() == wanted.to_dict()
    with pytest.raises(NearfarError, match="nothing is left"):
        space(rows, np.full(16, -1), unlabelled=-1)
