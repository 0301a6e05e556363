"""What ``save`` writes ``load`` reads, bit for bit; what it could not read is refused before it is written."""

import copy
import logging
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

import nearfar
from nearfar.data import Preprocess
from nearfar.errors import CheckpointError
from nearfar.models import Embedder

DTYPES = [torch.float16, torch.bfloat16, torch.float64, torch.float32]


def small(**settings: object) -> Embedder:
    torch.manual_seed(0)
    return Embedder("nearfar/small", size=32, **{"dim": 8, **settings})


def same(a: Embedder, b: Embedder) -> None:
    """Require equal bits: weights, buffers that are not saved, and embeddings."""
    for kind in ("state_dict", "named_buffers"):
        mine, theirs = dict(getattr(a, kind)()), dict(getattr(b, kind)())
        if kind == "state_dict":
            mine, theirs = a.state_dict(), b.state_dict()
        assert mine.keys() == theirs.keys()
        for name, value in mine.items():
            assert value.dtype == theirs[name].dtype, name
            assert torch.equal(value, theirs[name]), name
    images = torch.rand(3, 3, a.preprocess.size, a.preprocess.size)
    assert torch.equal(a.encode(images), b.encode(images))
    assert a.fingerprint() == b.fingerprint()


class TestTypes:
    @pytest.mark.parametrize("dtype", DTYPES, ids=str)
    @pytest.mark.parametrize(
        "settings", [{}, {"pooling": "gem", "layer_norm": True}, {"head": "none"}], ids=str
    )
    def test_any(self, tmp_path: Path, dtype: torch.dtype, settings: dict[str, object]) -> None:
        model = small(**settings).to(dtype)
        again = nearfar.load(model.save(tmp_path))
        same(model.eval(), again)
        assert again.encode(torch.rand(1, 3, 32, 32)).dtype == torch.float32
        assert f'dtype = "{str(dtype).removeprefix("torch.")}"' in (tmp_path / "model.toml").read_text()

    @pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"])
    def test_any_backbone(self, tmp_path: Path, name: str) -> None:
        torch.manual_seed(0)
        model = Embedder(name, pretrained=False, size=32, dim=4).half().eval()
        same(model, nearfar.load(model.save(tmp_path)))

    @pytest.mark.parametrize(
        "mix",
        [
            lambda model: model.backbone.half(),
            lambda model: model.head.double(),
            lambda model: model.backbone.stages[0].bfloat16(),
            lambda model: model.half().head.float(),
        ],
    )
    def test_a_mix(self, tmp_path: Path, mix) -> None:
        model = small(layer_norm=True)
        mix(model)
        again = nearfar.load(model.save(tmp_path))
        for name, value in model.state_dict().items():
            assert again.state_dict()[name].dtype == value.dtype
            assert torch.equal(again.state_dict()[name], value)
        assert again.fingerprint() == model.fingerprint()

    def test_saved_again_and_converted_after_loading(self, tmp_path: Path) -> None:
        half = nearfar.load(small().half().save(tmp_path / "a"))
        same(half, nearfar.load(half.save(tmp_path / "b")))
        full = half.float()
        same(full, nearfar.load(full.save(tmp_path / "b")))

    def test_buffers_that_are_not_saved_have_their_type_too(self, tmp_path: Path) -> None:
        class Scaled(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.inner = nn.Conv2d(3, 4, 3)
                self.register_buffer("scale", torch.full((4, 1, 1), 1 / 3), persistent=False)

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return self.inner(x) * self.scale

        torch.manual_seed(0)
        for dtype in DTYPES:
            model = Embedder(Scaled(), dim=4, preprocess=Preprocess(16)).to(dtype).eval()
            model.save(tmp_path)
            again = nearfar.load(tmp_path, backbone=Scaled())
            assert again.backbone.scale.dtype == dtype
            same(model, again)

    def test_complex_weights_stay_complex(self, tmp_path: Path) -> None:
        class Turned(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.turn = nn.Parameter(torch.randn(3, 1, 1, dtype=torch.complex64))

            def forward(self, x: torch.Tensor) -> torch.Tensor:
                return (x * self.turn).real

        model = Embedder(Turned(), dim=4, preprocess=Preprocess(16)).eval()
        model.head.half()
        model.save(tmp_path)
        same(model, nearfar.load(tmp_path, backbone=Turned()))

    def test_tied_weights_stay_tied(self, tmp_path: Path) -> None:
        def module() -> nn.Module:
            first = nn.Conv2d(3, 3, 1)
            second = nn.Conv2d(3, 3, 1)
            second.weight = first.weight
            return nn.Sequential(first, second)

        model = Embedder(module(), dim=4, preprocess=Preprocess(8)).half().eval()
        model.save(tmp_path)
        again = nearfar.load(tmp_path, backbone=module())
        assert again.backbone[0].weight is again.backbone[1].weight
        same(model, again)

    def test_what_images_are_normalised_with_stays_exact(self) -> None:
        preprocess = Preprocess(32, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        model = Embedder("nearfar/small", dim=8, preprocess=preprocess)
        expected = model.mean.clone(), model.std.clone()
        for dtype in (torch.float16, torch.float64, torch.float32):
            model.to(dtype)
            assert model.mean.dtype == torch.float32
            assert torch.equal(model.mean, expected[0])
            assert torch.equal(model.std, expected[1])


class Doubled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


def added_with_hook(model: Embedder) -> None:
    linear = model.head[0]
    linear.register_parameter("scale", nn.Parameter(torch.ones(1)))
    linear.register_forward_hook(lambda module, _, output: output * module.scale)


class Adapted(nn.Module):
    """As the adapters of PEFT lie around a layer."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.base_layer = layer
        self.lora_A = nn.ModuleDict({"default": nn.Linear(layer.in_features, 2, bias=False)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.base_layer(x)


def adapt(model: Embedder) -> None:
    model.head[0] = Adapted(model.head[0])


def set_head(model: Embedder, head: nn.Module) -> None:
    model.head = head


CHANGES = {
    "pruned head": (lambda m: prune.l1_unstructured(m.head[0], "weight", 0.5), r"'head\.0\.weight_orig'.*prune\.remove"),
    "pruned backbone": (lambda m: prune.random_unstructured(m.backbone.stages[0][0], "weight", 0.5), r"prune\.remove"),
    "weight norm": (lambda m: parametrizations.weight_norm(m.head[0]), r"remove_parametrizations"),
    "spectral norm": (lambda m: parametrizations.spectral_norm(m.head[0]), r"remove_parametrizations"),
    "parametrized": (lambda m: parametrize.register_parametrization(m.head[0], "weight", Doubled()), "remove_parametrizations"),
    "old spectral norm": (lambda m: nn.utils.spectral_norm(m.head[0]), r"remove_spectral_norm"),
    "adapters": (adapt, r"merge_and_unload\(\)"),
    "hook": (added_with_hook, r"has a weight 'head\.0\.scale' that was not there"),
    "compiled part": (lambda m: setattr(m, "backbone", torch.compile(m.backbone)), r"part\.compile\(\)"),
    "extra layer": (lambda m: m.head.append(nn.Linear(8, 8)), r"has a weight 'head\.1\.weight' that was not there"),
    "extra module": (lambda m: m.add_module("extra", nn.Linear(8, 8)), r"has a weight 'extra\.weight'"),
    "extra buffer": (lambda m: m.register_buffer("count", torch.zeros(1)), r"has a weight 'count'"),
    "extra activation": (lambda m: m.head.append(nn.ReLU()), r"has ReLU as its part 'head\.1', not nothing"),
    "other activation": (lambda m: set_head(m, nn.Sequential(m.head[0], nn.Tanh())), "part 'head"),
    "other pooling": (lambda m: setattr(m, "pooling", nn.Flatten()), "has Flatten as its part 'pooling', not Pooling"),
    "other head": (lambda m: set_head(m, nn.Sequential(nn.Linear(128, 4))), r"of shape \[4, 128\], not \[8, 128\]"),
    "no head": (lambda m: set_head(m, nn.Identity()), r"lacks the weight 'head\.0\.weight'"),
    "no bias": (lambda m: m.head[0].register_parameter("bias", None), r"lacks the weight 'head\.0\.bias'"),
    "meta": (lambda m: m.to("meta"), "meta device"),
    "sparse": (lambda m: setattr(m.head[0], "weight", nn.Parameter(m.head[0].weight.detach().to_sparse())), "sparse"),
}  # fmt: skip


class TestRefused:
    @pytest.mark.parametrize("change", CHANGES)
    def test_before_anything_is_written(self, tmp_path: Path, change: str) -> None:
        good, model = small(), small()
        good.save(tmp_path)
        before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
        alter, sentence = CHANGES[change]
        alter(model)
        with pytest.raises(CheckpointError, match=sentence) as refused:
            model.save(tmp_path)
        assert "\n" not in str(refused.value)
        assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
        same(good.eval(), nearfar.load(tmp_path))

    def test_old_weight_norm(self, tmp_path: Path) -> None:
        model = small()
        with pytest.warns(FutureWarning):
            nn.utils.weight_norm(model.head[0])
        with pytest.raises(CheckpointError, match=r"remove_weight_norm"):
            model.save(tmp_path / "model")
        nn.utils.remove_weight_norm(model.head[0])
        same(model.eval(), nearfar.load(model.save(tmp_path / "model")))

    def test_after_the_call_that_helps_it_is_saved(self, tmp_path: Path) -> None:
        model = small()
        prune.l1_unstructured(model.head[0], "weight", 0.5)
        prune.remove(model.head[0], "weight")
        parametrizations.weight_norm(model.backbone.stages[0][0])
        parametrize.remove_parametrizations(model.backbone.stages[0][0], "weight")
        same(model.eval(), nearfar.load(model.save(tmp_path)))

    def test_a_module_of_ones_own(self, tmp_path: Path) -> None:
        def module() -> nn.Module:
            return nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.ReLU())

        model = Embedder(module(), dim=4, preprocess=Preprocess(16)).eval()
        model.save(tmp_path)  # what it had when it was made is its own
        same(model, nearfar.load(tmp_path, backbone=module()))
        prune.l1_unstructured(model.head[0], "weight", 0.5)
        with pytest.raises(CheckpointError, match=r"prune\.remove"):
            model.save(tmp_path)

    def test_state_that_is_no_tensor(self, tmp_path: Path) -> None:
        class Counting(nn.Conv2d):
            def get_extra_state(self) -> dict[str, int]:
                return {"calls": 1}

            def set_extra_state(self, state: object) -> None: ...

        with pytest.raises(
            CheckpointError, match=r"'backbone\._extra_state' of the model is dict and no tensor"
        ):
            Embedder(Counting(3, 4, 3), dim=4, preprocess=Preprocess(16)).save(tmp_path / "m")
        assert not (tmp_path / "m").exists()

    def test_types_that_the_format_lacks(self, tmp_path: Path) -> None:
        class Wide(nn.Conv2d):
            def __init__(self) -> None:
                super().__init__(3, 4, 3)
                self.register_buffer("wide", torch.zeros(1, dtype=torch.complex128))

        with pytest.raises(CheckpointError, match="safetensors cannot hold these weights"):
            Embedder(Wide(), dim=4, preprocess=Preprocess(16)).save(tmp_path / "m")
        assert not (tmp_path / "m").exists()


class TestKept:
    """What changes no weight is no reason to refuse."""

    @pytest.mark.parametrize(
        "change",
        [
            nn.SyncBatchNorm.convert_sync_batchnorm,
            lambda model: model.train(),
            lambda model: model.requires_grad_(False),
            lambda model: model.compile(),
            copy.deepcopy,
            lambda model: model.head[0].register_forward_hook(lambda *_: None),
        ],
    )
    def test_is_saved(self, tmp_path: Path, change) -> None:
        model = small()
        changed = change(model)
        model = changed if isinstance(changed, Embedder) else model
        again = nearfar.load(model.save(tmp_path))
        for name, value in model.state_dict().items():
            assert torch.equal(value, again.state_dict()[name])

    def test_activation_checkpointing(self, tmp_path: Path) -> None:
        from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

        model = small()
        model.backbone.stages[3] = checkpoint_wrapper(model.backbone.stages[3])
        assert nearfar.load(model.save(tmp_path)).fingerprint() == model.fingerprint()

    def test_a_subclass_with_more_weights(self, tmp_path: Path) -> None:
        class Wider(Embedder):
            def __init__(self, *args: object, **settings: object) -> None:
                super().__init__(*args, **settings)
                self.extra = nn.Linear(4, 4)

        torch.manual_seed(0)
        model = Wider("nearfar/small", size=32, dim=8).eval()
        model.save(tmp_path)
        same(model, Wider.load(tmp_path))
        prune.l1_unstructured(model.head[0], "weight", 0.5)
        with pytest.raises(CheckpointError, match=r"prune\.remove"):
            model.save(tmp_path)


class TestFrozenHead:
    """PEFT freezes everything that it does not adapt, a head that is new included."""

    def freeze(self, model: Embedder) -> Embedder:
        model.head.requires_grad_(False)
        return model

    def test_training_with_it_is_told_once(self, caplog: pytest.LogCaptureFixture) -> None:
        model = self.freeze(small())
        model.train()
        model.train()
        assert caplog.text.count("the head is frozen and as random as it was made") == 1
        assert "modules_to_save=['head']" in caplog.text

    def test_saving_it_too(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        model = small().requires_grad_(False)
        model.train()
        assert not caplog.text  # nothing trains
        model.save(tmp_path)
        assert "the head is frozen and as random" in caplog.text

    def test_a_head_that_learned_or_was_loaded_is_not(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        with caplog.at_level(logging.WARNING):
            model = small()
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
            model(torch.rand(4, 3, 32, 32)).sum().backward()
            optimizer.step()
            self.freeze(model).train().save(tmp_path)
            self.freeze(nearfar.load(tmp_path)).train()
            read = small()
            read.load_state_dict(model.state_dict())
            self.freeze(read).train()
            self.freeze(small(head="none")).train()
        assert not caplog.text
