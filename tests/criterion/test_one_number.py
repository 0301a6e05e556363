"""A learned number is a parameter of one element, which behaves as a number."""

import pytest
import torch

import nearfar


@pytest.mark.parametrize(("name", "key"), [("margin", "beta"), ("clip", "log_scale"), ("siglip", "bias")])
def test_it_is_a_number(name, key):
    loss = nearfar.losses.create(name)
    learned = loss.learned[key]
    assert learned.shape == (1,)
    assert learned.item() == pytest.approx(loss.settings[key])
    x, labels = torch.randn(6, 3, requires_grad=True), torch.arange(6) // 2
    value = loss(x, labels)
    assert value.ndim == 0
    value.backward()
    assert learned.grad is not None
    assert learned.grad.shape == (1,)


def test_a_checkpoint_with_a_scalar_is_read():
    loss = nearfar.losses.create("margin")
    both = torch.nn.ModuleDict({"loss": loss})
    both.load_state_dict({"loss.learned.beta": torch.tensor(0.25)})
    assert loss.learned["beta"].tolist() == [0.25]
    both.load_state_dict(both.state_dict())


def test_one_for_each_class_stays_that():
    loss = nearfar.losses.create("margin", classes=3)
    assert loss.learned["beta"].shape == (3,)
    with pytest.raises(RuntimeError, match="size mismatch"):
        loss.load_state_dict({**loss.state_dict(), "learned.beta": torch.tensor(0.25)})
