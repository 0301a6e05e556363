"""The ranking losses of pytorch-metric-learning 2.9 on the same inputs: where they are right, and where not."""

from collections.abc import Callable

import pytest
import torch
from pytorch_metric_learning import losses
from torch import Tensor

import nearfar
import ranking_losses_oracle as oracle
from problems import batch

pytestmark = pytest.mark.filterwarnings(
    "ignore:Using a non-tuple sequence for multidimensional indexing:UserWarning"  # of the peer's own
)


def classes(count: int, size: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Rows in order of their classes, overlapping enough that nothing is 0."""
    x, labels = batch(count, size, 6, spread=1.2, seed=seed)
    order = labels.argsort(stable=True)
    return x[order].requires_grad_(), labels[order]


def value_and_gradient(loss: Callable[..., Tensor], x: Tensor, *rest: Tensor) -> tuple[Tensor, Tensor]:
    value = loss(x, *rest)
    return value.detach().double(), torch.autograd.grad(value, x)[0]


@pytest.mark.parametrize("size", [3, 4])
def test_smooth_ap_agrees_when_classes_are_as_many_as_their_rows(size):
    """It counts the anchor as one of its positives, as the authors' code does."""
    x, labels = classes(size, size)
    value, grad = value_and_gradient(losses.SmoothAPLoss(temperature=0.05), x, labels)
    ours = nearfar.losses.create("smooth_ap", temperature=0.05, with_self=True)
    found, found_grad = value_and_gradient(ours, x, labels)
    torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-7)  # it sums up in float32
    torch.testing.assert_close(found_grad, grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("count", "size"), [(8, 2), (3, 5)])
def test_smooth_ap_of_other_batches(count, size):
    """The peer takes the size of a class for the number of classes."""
    x, labels = classes(count, size)
    expected = oracle.smooth_ap(x, labels, "cosine", 0.05, with_self=True).mean().item()
    ours = nearfar.losses.create("smooth_ap", temperature=0.05, with_self=True)(x, labels)
    assert ours.item() == pytest.approx(expected, rel=1e-9)
    theirs = losses.SmoothAPLoss(temperature=0.05)(x, labels).item()
    assert abs(theirs - expected) > 0.01


def test_smooth_ap_of_rows_in_another_order():
    x, labels = classes(4, 4)
    order = torch.randperm(16, generator=torch.Generator().manual_seed(1))
    theirs, ours = losses.SmoothAPLoss(), nearfar.losses.create("smooth_ap", with_self=True)
    assert theirs(x, labels).item() != pytest.approx(theirs(x[order], labels[order]).item(), rel=0.01)
    assert ours(x, labels).item() == pytest.approx(ours(x[order], labels[order]).item(), rel=1e-9)


def test_smooth_ap_of_classes_of_several_sizes():
    x, _ = classes(4, 4)
    labels = torch.tensor([0] * 7 + [1] * 5 + [2] * 3 + [3])
    with pytest.raises(ValueError, match="same number of elements"):
        losses.SmoothAPLoss()(x, labels)
    each = oracle.smooth_ap(x, labels, "cosine")
    ours = nearfar.losses.create("smooth_ap", reduction="none")(x, labels)
    torch.testing.assert_close(ours, each)


@pytest.mark.parametrize("bins", [5, 10, 37])
def test_fast_ap_agrees(bins):
    x, labels = classes(5, 4)
    labels[:6] = torch.tensor([0, 0, 0, 8, 9, 1])  # of several sizes, two of them alone
    value, grad = value_and_gradient(losses.FastAPLoss(num_bins=bins), x, labels)
    ours = nearfar.losses.create("fast_ap", bins=bins)
    found, found_grad = value_and_gradient(ours, x, labels)
    torch.testing.assert_close(found, value, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found_grad, grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("bins", [20, 100])
def test_histogram_agrees(bins):
    x, labels = classes(5, 4)
    value, grad = value_and_gradient(losses.HistogramLoss(n_bins=bins), x, labels)
    found, found_grad = value_and_gradient(nearfar.losses.create("histogram", bins=bins), x, labels)
    torch.testing.assert_close(found, value, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(found_grad, grad, rtol=1e-5, atol=1e-6)  # its bins are found in float32


def test_histogram_of_two_equal_vectors():
    """A similarity of 1 falls into a bin that the peer does not have."""
    x, labels = classes(4, 3)
    x = x.detach().clone()
    x[0] = x[1] = torch.eye(6, dtype=torch.float64)[0]
    with pytest.raises((RuntimeError, IndexError), match="out of bounds"):
        losses.HistogramLoss()(x, labels)
    expected = oracle.histogram(x, labels).item()
    assert nearfar.losses.create("histogram")(x, labels).item() == pytest.approx(expected, rel=1e-9)


def test_histogram_with_rows_that_are_alone():
    """The peer makes its pairs from triplets: two rows without positives are no negative pair to it."""
    x, _ = classes(4, 4)
    labels = torch.tensor([0, 0, 0, 1, 1, 1, *range(2, 12)])
    expected = oracle.histogram(x, labels).item()
    assert nearfar.losses.create("histogram")(x, labels).item() == pytest.approx(expected, rel=1e-9)
    assert abs(losses.HistogramLoss()(x, labels).item() - expected) > 0.003
