"""Two passes leave the gradient of one: values, weights of network and loss, memory, random numbers."""

import random
from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

import nearfar
from nearfar.errors import NearfarError
from nearfar.losses.parts.registry import has_proxies
from nearfar.train import large_batch, two_pass
from nearfar.train.randomness import RandomState, seed_everything
from turns import in_turns

CLASSES, DIM, N = 5, 8, 23
LOSSES: dict[str, Callable[[], nn.Module]] = {
    "supcon": lambda: nearfar.losses.create("supcon"),
    "multi_similarity, mined": lambda: nearfar.losses.create(
        "multi_similarity", mining="multi_similarity", backend="tiled"
    ),
    "triplet, hard": lambda: nearfar.losses.create("triplet", mining="hard"),
    "triplet, random": lambda: nearfar.losses.create("triplet", mining="random"),
    "margin, learned beta": lambda: nearfar.losses.create(
        "margin", mining="distance_weighted", classes=CLASSES
    ),
    "proxy_anchor": lambda: nearfar.losses.create("proxy_anchor", classes=CLASSES, dim=DIM),
    "sum": lambda: nearfar.losses.Sum({"proxy_anchor": 1.0, "contrastive": 0.2}, classes=CLASSES, dim=DIM),
}
BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-6}
CASES = [(name, size) for name in LOSSES for size in (0, 40) if not size or name != "proxy_anchor"]


class Network(nn.Module):
    """Two convolutions with norms of each image by itself, and dropout twice."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *(nn.Conv2d(3, 8, 3), nn.GroupNorm(2, 8), nn.ReLU(), nn.Dropout2d(0.3), nn.Conv2d(8, 8, 3)),
            *(nn.Flatten(), nn.LayerNorm(8 * 16), nn.Dropout(0.4), nn.Linear(8 * 16, DIM)),
        )

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


def network(dtype: torch.dtype = torch.float64) -> nn.Module:
    torch.manual_seed(1)
    return Network().to(dtype)


def batch(step: int = 0, dtype: torch.dtype = torch.float64, n: int = N) -> tuple[Tensor, Tensor, Tensor]:
    """Images, labels, and ids of which some come again."""
    generator = torch.Generator().manual_seed(step)
    labels = torch.randint(CLASSES, (n,), generator=generator)
    images = torch.randn(n, 3, 8, 8, generator=generator, dtype=dtype) + labels[:, None, None, None] / 2
    return images, labels, torch.randint(60, (n,), generator=generator)


def one_pass(model: nn.Module, loss: nn.Module, images: Tensor, labels: Tensor, chunk: int, **more) -> Tensor:
    """The same chunks, all their graphs kept: dropout draws the same numbers."""
    value = loss(torch.cat([model(part) for part in images.split(chunk)]), labels, **more)
    value.backward()
    return value.detach()


def gradients(*modules: nn.Module) -> dict[str, Tensor | None]:
    return {f"{i}.{k}": p.grad for i, m in enumerate(modules) for k, p in m.named_parameters()}


def learned(name: str, dtype: torch.dtype) -> nn.Module:
    torch.manual_seed(2)
    return LOSSES[name]().to(dtype)


def steps(
    how: Callable[..., Tensor], name: str, dtype: torch.dtype, chunk: int, size: int
) -> tuple[list[Tensor], dict[str, Tensor | None], dict[str, object], Tensor]:
    """Three batches, gradients added up; what stands where afterwards."""
    model, loss = network(dtype), learned(name, dtype)
    memory = nearfar.CrossBatchMemory(size) if size else None
    seed_everything(3)
    values = []
    for step in range(3):
        images, labels, ids = batch(step, dtype)
        more = {"memory": memory, "ids": ids} if size else {}
        values.append(how(model, loss, images, labels, chunk, **more))
    kept = memory.state_dict() if memory else {}
    return values, gradients(model, loss), kept, torch.rand(3)


@in_turns(2, told=CASES, dtype=[*BOUNDS], chunk=[1, 7, N, N + 5])
def test_two_passes_leave_the_gradient_of_one(told: tuple[str, int], dtype: torch.dtype, chunk: int) -> None:
    """With dropout on; 7 leaves a last chunk of 2."""
    (name, size), bound = told, BOUNDS[dtype]
    values, expected, kept, draw = steps(one_pass, name, dtype, chunk, size)
    found_values, found, found_kept, found_draw = steps(two_pass, name, dtype, chunk, size)
    torch.testing.assert_close(found_values, values, rtol=bound, atol=bound)
    for key, gradient in expected.items():
        assert gradient is not None
        assert gradient.norm() > 0, key
        assert (found[key] - gradient).norm() <= bound * (gradient.norm() + 1), key
    torch.testing.assert_close(found_kept, kept, rtol=bound, atol=bound)
    assert torch.equal(found_draw, draw), "the generator stands where one pass leaves it"


@pytest.mark.parametrize("name", nearfar.losses.names())
def test_every_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of_classes = {"classes": CLASSES, "dim": DIM} if has_proxies(name) else {}
    monkeypatch.setitem(LOSSES, name, lambda: nearfar.losses.create(name, **of_classes))
    found = [steps(how, name, torch.float64, 7, 0) for how in (one_pass, two_pass)]
    torch.testing.assert_close(found[1], found[0], rtol=1e-11, atol=1e-13)


def test_it_is_the_gradient_of_the_whole_batch() -> None:
    """Dropout that draws image by image leaves out the same in chunks as in the whole batch."""

    class RowDropout(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * (torch.rand(x.shape) > 0.4)

    model = nn.Sequential(nn.Flatten(), nn.Linear(192, 32), RowDropout(), nn.Linear(32, DIM)).double()
    loss = learned("sum", torch.float64)
    images, labels, _ = batch()
    torch.manual_seed(0)
    value = loss(model(images), labels)
    value.backward()
    expected = {k: v.clone() for k, v in gradients(model, loss).items()}
    model.zero_grad()
    loss.zero_grad()
    torch.manual_seed(0)
    torch.testing.assert_close(two_pass(model, loss, images, labels, 4), value, rtol=1e-12, atol=0)
    torch.testing.assert_close(gradients(model, loss), expected, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("where", ["given", "around"])
def test_autocast(where: str) -> None:
    """Both passes in bfloat16; a weight that pass 1 cast without a graph still gets its gradient."""
    model, loss = network(torch.float32), learned("sum", torch.float32)
    images, labels, _ = batch(dtype=torch.float32)

    def cast() -> torch.autocast:
        return torch.autocast("cpu", torch.bfloat16)

    seed_everything(4)
    embeddings = []
    for part in images.split(5):
        with cast():
            embeddings.append(model(part))
    assert embeddings[0].dtype == torch.bfloat16
    value = loss(torch.cat(embeddings), labels)
    value.backward()
    expected = {k: v.clone() for k, v in gradients(model, loss).items()}
    model.zero_grad()
    loss.zero_grad()
    seed_everything(4)
    with cast() if where == "around" else nullcontext():
        found = two_pass(model, loss, images, labels, 5, autocast=cast if where == "given" else None)
        assert torch.is_autocast_enabled("cpu") == (where == "around")
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, value.detach(), rtol=1e-6, atol=0)
    for key, gradient in gradients(model, loss).items():
        assert (gradient - expected[key]).norm() <= 1e-6 * expected[key].norm(), key
    model.zero_grad()
    model.eval()
    with cast():
        whole = model(images)
    loss(whole, labels).backward()
    expected = {k: v.clone() for k, v in gradients(model).items()}
    model.zero_grad()
    two_pass(model, loss, images, labels, 5, autocast=cast)
    for key, gradient in gradients(model).items():
        assert (gradient - expected[key]).norm() <= 0.02 * expected[key].norm(), key


def test_without_the_random_state_it_would_be_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests above can fail: other units left out in pass 2 are noticed, and would turn the gradient."""
    _, expected, _, _ = steps(one_pass, "supcon", torch.float64, 7, 0)
    monkeypatch.setattr(RandomState, "restore", lambda self: None)
    with pytest.raises(
        NearfarError, match=r"second pass are \d+% away from those of the first.*batch\.chunk"
    ):
        steps(two_pass, "supcon", torch.float64, 7, 0)
    monkeypatch.setattr(large_batch, "APART", float("inf"))
    _, found, _, _ = steps(two_pass, "supcon", torch.float64, 7, 0)
    a, b = (torch.cat([g.flatten() for g in grads.values() if g is not None]) for grads in (expected, found))
    assert (a - b).norm() > 0.3 * a.norm()


def test_numpy_and_python_draw_the_same_twice() -> None:
    class Drawing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(192, DIM)

        def forward(self, images: Tensor) -> Tensor:
            by = random.random() + float(np.random.rand())  # noqa: NPY002 (what other code may do)
            return by * self.layer(images.flatten(1))

    images, labels, _ = batch(dtype=torch.float32)
    drawn = {}
    for how in (one_pass, two_pass):
        torch.manual_seed(0)
        model = Drawing()
        seed_everything(5)
        how(model, nearfar.losses.create("contrastive", similarity="euclidean"), images, labels, 6)
        drawn[how] = (gradients(model), random.random(), np.random.rand())  # noqa: NPY002
    torch.testing.assert_close(drawn[one_pass], drawn[two_pass], rtol=1e-5, atol=1e-6)


def test_images_are_prepared_a_chunk_at_a_time() -> None:
    model, loss = network(torch.float32), learned("supcon", torch.float32)
    images, labels, _ = batch(dtype=torch.float32)
    bytes_ = (images * 20).clamp(0, 255).to(torch.uint8)
    scale, seen = torch.rand(N), []

    def prepare(some: Tensor, by: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert some.dtype == torch.uint8
        seen.append(len(some))
        return some.float() * by[:, None, None, None]

    two_pass(model.eval(), loss, (bytes_, scale), labels, 10, prepare=prepare)
    assert seen == [10, 10, 3] * 2
    found = gradients(model)
    model = network(torch.float32).eval()
    one_pass(model, loss, bytes_.float() * scale[:, None, None, None], labels, 10)
    torch.testing.assert_close(found, gradients(model), rtol=1e-5, atol=1e-6)


def test_a_scaler_scales_what_is_sent_back() -> None:
    images, labels, _ = batch(dtype=torch.float32)
    model, loss = network(torch.float32).eval(), learned("proxy_anchor", torch.float32)
    value = two_pass(model, loss, images, labels, 7)
    plain = {k: v.clone() for k, v in gradients(model, loss).items()}
    model.zero_grad()
    loss.zero_grad()
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    assert two_pass(model, loss, images, labels, 7, scaler=scaler) == value
    scaled = {k: v / 1024 for k, v in gradients(model, loss).items()}
    torch.testing.assert_close(scaled, plain, rtol=1e-5, atol=1e-7)


def test_a_loss_may_learn_alone() -> None:
    images, labels, _ = batch()
    model, loss = network().requires_grad_(False), learned("proxy_anchor", torch.float64)
    two_pass(model, loss, images, labels, 7)
    assert gradients(loss)["0.proxies"].norm() > 0
    assert set(gradients(model).values()) == {None}


@pytest.mark.parametrize("name", ["test_vit", "test_convnext"])
def test_networks_of_timm_with_dropped_paths(name: str) -> None:
    torch.manual_seed(0)
    size = {"img_size": 32} if name == "test_vit" else {}
    model = timm.create_model(name, num_classes=0, drop_path_rate=0.3, drop_rate=0.2, **size)
    loss = learned("supcon", torch.float32)
    images, labels = torch.rand(9, 3, 32, 32), torch.arange(9) % 3
    found = []
    for how in (one_pass, two_pass):
        model.zero_grad()
        seed_everything(6)
        how(model, loss, images, labels, 4)
        found.append({k: v.clone() for k, v in gradients(model).items() if v is not None})
    torch.testing.assert_close(found[1], found[0], rtol=1e-5, atol=1e-6)


def with_batch_norm() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, DIM), nn.BatchNorm1d(DIM)).double()


def test_batch_norm_is_refused_while_it_looks_at_the_batch() -> None:
    images, labels, _ = batch()
    loss = learned("supcon", torch.float64)
    with pytest.raises(
        NearfarError,
        match=r"^'2' normalise by .* a chunk of 4 images are not those of 23: .*freeze_batch_norm",
    ):
        two_pass(with_batch_norm(), loss, images, labels, 4)
    model = with_batch_norm()
    model[2].eval()
    two_pass(model, loss, images, labels, 4)
    assert model[2].num_batches_tracked == 0
    unaveraged = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(192, track_running_stats=False)).double().eval()
    with pytest.raises(NearfarError, match="normalise by the statistics of a batch"):
        two_pass(unaveraged, loss, images, labels, 4)


@pytest.mark.parametrize("chunk", [0, N, N + 1])
def test_a_batch_in_one_chunk_takes_one_pass(chunk: int) -> None:
    images, labels, _ = batch()
    loss, model, whole = learned("supcon", torch.float64), with_batch_norm(), with_batch_norm()
    value = two_pass(model, loss, images, labels, chunk)
    assert torch.equal(value, one_pass(whole, loss, images, labels, N))
    torch.testing.assert_close(gradients(model), gradients(whole), rtol=0, atol=0)
    torch.testing.assert_close(model.state_dict(), whole.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("layer", "name"),
    [
        (nn.InstanceNorm2d(3, track_running_stats=True), "0.running_mean"),
        (spectral_norm(nn.Conv2d(3, 3, 1)), "0.parametrizations.weight.0._u"),
    ],
)
def test_layers_that_keep_some_of_each_batch_are_refused(layer: nn.Module, name: str) -> None:
    images, labels, _ = batch(dtype=torch.float32)
    model = nn.Sequential(layer, nn.Flatten(), nn.Linear(192, DIM))
    with pytest.raises(NearfarError, match=rf"^'{name}' of the model is written to while it embeds"):
        two_pass(model, learned("supcon", torch.float32), images, labels, 4)
    two_pass(model.eval(), learned("supcon", torch.float32), images, labels, 4)


@pytest.mark.parametrize("chunk", [-1, 2.0, True])
def test_a_chunk_is_a_number_of_images(chunk: object) -> None:
    with pytest.raises(NearfarError, match="chunk must be a whole number of images, or 0 for one pass; got"):
        two_pass(network(), learned("supcon", torch.float64), *batch()[:2], chunk)


def test_what_does_not_fit_is_said() -> None:
    images, labels, _ = batch()
    loss = nearfar.losses.create("supcon", reduction="none")
    with pytest.raises(NearfarError, match=r"the loss returned values of shape \[23\]; give it a reduction"):
        two_pass(network(), loss, images, labels, 4)
    with pytest.raises(NearfarError, match=r"tensors of \[22, 23\] rows; give one row for each image"):
        two_pass(network(), loss, (images, images[1:]), labels, 4)
    with pytest.raises(
        NearfarError, match=r"the model returns \[4, 3, 8, 8\]; expected embeddings \[n, dim\]"
    ):
        two_pass(nn.Identity(), loss, images, labels, 4)
