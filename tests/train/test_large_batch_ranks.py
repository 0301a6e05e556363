"""Two ranks in chunks, uneven and empty, leave the gradient of one process; it is exchanged once a step."""

import torch

import nearfar
import two_pass_ranks

CASES = [(7, 3), (2, 3), (13, 3), (7, 0), (6, 100)]


def test_ranks_in_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(13, 12, generator=generator, dtype=torch.float64)
    labels = torch.randint(3, (13,), generator=generator)
    model = two_pass_ranks.network()
    value = nearfar.losses.create("supcon")(model(images), labels)
    value.backward()
    expected = {name: p.grad for name, p in model.named_parameters()}
    for rank in two_pass_ranks.run(images, labels, CASES):
        for case, found in zip(CASES, rank, strict=True):
            torch.testing.assert_close(found["value"], value.detach(), rtol=1e-12, atol=0)
            torch.testing.assert_close(found["gradients"], expected, rtol=1e-11, atol=1e-14)
            assert found["exchanged"] == [0], case
