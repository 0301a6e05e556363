"""Checksums: any bit that changes is seen, and nothing else is."""

import pytest
import torch
from torch import Tensor

from nearfar.checksum import PLAIN, checksum, checksums, damaged

DTYPES = [
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8,
    torch.bool, torch.complex64, torch.float8_e4m3fn,
]  # fmt: skip


def drawn(dtype: torch.dtype, *shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return (100 * torch.rand(shape, generator=generator)).to(dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_bit_counts(dtype: torch.dtype) -> None:
    tensor = drawn(dtype, 3, 4)
    before = checksum(tensor)
    content = tensor.view(-1).view(torch.uint8)
    bits = range(8) if dtype != torch.bool else [0]
    for place in range(len(content)):
        for bit in bits:
            content[place] ^= 1 << bit
            assert checksum(tensor) != before, (place, bit)
            content[place] ^= 1 << bit
    assert checksum(tensor) == before


def test_type_and_shape_count_and_the_layout_does_not() -> None:
    tensor = drawn(torch.float32, 4, 6)
    assert checksum(tensor) != checksum(tensor.view(torch.int32))
    assert checksum(tensor) != checksum(tensor.reshape(6, 4))
    assert checksum(torch.zeros(0, 3)) != checksum(torch.zeros(3, 0))
    assert checksum(torch.tensor(1.5)) != checksum(torch.tensor([1.5]))
    assert checksum(tensor.T.contiguous().T) == checksum(tensor)
    assert checksum(drawn(torch.float32, 4, 12)[:, ::2]) == checksum(
        drawn(torch.float32, 4, 12)[:, ::2].clone()
    )
    assert checksum(torch.nn.Parameter(tensor)) == checksum(tensor)
    turned = torch.tensor([1 + 2j]).conj()
    assert checksum(turned) == checksum(turned.resolve_conj())
    assert checksum(torch.tensor([float("nan")])) == checksum(torch.tensor([float("nan")]))


def state() -> dict[str, object]:
    moments = {0: {"mean": drawn(torch.float32, 2, 3), "step": torch.tensor(7.0)}}
    return {
        "net": {"a.b": drawn(torch.float32, 3)},
        "optimizer": {"state": moments, "groups": [{"lr": 0.1}]},
        "epoch": 3,
        "rest": [],
    }


def test_of_nested_state() -> None:
    found = checksums(state())
    assert list(found) == ["net.a.b", "optimizer.state.0.mean", "optimizer.state.0.step", PLAIN]
    assert damaged(state(), found) == []


@pytest.mark.parametrize(
    ("change", "where"),
    [
        (lambda s: s["optimizer"]["state"][0]["mean"].view(torch.int32)[1].bitwise_xor_(1), "optimizer.state.0.mean"),
        (lambda s: s.pop("net"), "net.a.b"),
        (lambda s: s["net"].update(c=torch.zeros(1)), "net.c"),
        (lambda s: s["optimizer"]["groups"][0].update(lr=0.1 + 2**-50), PLAIN),
        (lambda s: s.update(epoch=3.0), PLAIN),
        (lambda s: s.update(epoch=True), PLAIN),
        (lambda s: s.update(rest=()), PLAIN),
        (lambda s: s.pop("rest"), PLAIN),
    ],
)  # fmt: skip
def test_what_changed_is_named(change, where: str) -> None:
    found, changed = checksums(state()), state()
    change(changed)
    assert damaged(changed, found) == [where]
