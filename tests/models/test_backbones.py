"""Backbones of timm, our own and any module, all with small random weights."""

import logging
import re
import subprocess
import sys

import pytest
import torch
from torch import nn

from nearfar.data import Preprocess
from nearfar.errors import ConfigError
from nearfar.models import Embedder, backbones, names, pretrained
from nearfar.models.backbones import create_backbone, evaluating, expected_by
from nearfar.models.small import Small


def create(name: str | nn.Module, **settings: object) -> Embedder:
    return Embedder(name, pretrained=False, dim=8, **settings).eval()


@pytest.mark.parametrize(
    ("name", "features", "spatial"),
    [
        ("resnet10t", 512, True),
        ("test_efficientnet", 256, True),
        ("test_convnext", 64, True),
        ("test_vit", 64, False),
        ("test_vit2", 64, False),
        ("mobilenetv3_small_050", 1024, True),
    ],
)
def test_maps_are_pooled_by_us_and_tokens_by_the_backbone(name: str, features: int, spatial: bool) -> None:
    found = create_backbone(name, pretrained=False, size=32, preprocess=None)
    assert (found.features, found.spatial) == (features, spatial)
    embedder = create(name, size=32)
    assert embedder.feature_dim == features
    embeddings = embedder(torch.rand(2, 3, 32, 32))
    assert embeddings.shape == (2, 8)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(2))


def test_average_pooling_is_what_timm_does() -> None:
    import timm

    embedder = create("test_efficientnet", size=32)
    theirs = timm.create_model("test_efficientnet", num_classes=0).eval()
    theirs.load_state_dict(embedder.backbone.state_dict())
    images = torch.rand(2, 3, 32, 32)
    mean, std = (torch.tensor(x)[:, None, None] for x in (embedder.preprocess.mean, embedder.preprocess.std))
    with torch.no_grad():
        torch.testing.assert_close(embedder.features(images), theirs((images - mean) / std))


def test_the_class_token_is_what_timm_pools() -> None:
    embedder = create("test_vit", size=32)
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        tokens = embedder.backbone.forward_features((images - embedder.mean) / embedder.std)
        torch.testing.assert_close(embedder.features(images), embedder.backbone.forward_head(tokens))


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("efficientvit_b0", 64),
        ("inception_next_atto", 64),
        ("crossvit_9_240", None),
        ("coat_tiny", None),
        ("efficientvim_m1", 64),
    ],
)
def test_what_cannot_do_without_its_pooling_keeps_it(name: str, size: int | None) -> None:
    import timm

    torch.manual_seed(0)
    embedder = create(name, size=size)
    theirs = timm.create_model(name, num_classes=0).eval()
    theirs.load_state_dict(embedder.backbone.state_dict())
    images = torch.rand(1, 3, embedder.preprocess.size, embedder.preprocess.size)
    with torch.no_grad():
        expected = theirs((images - embedder.mean) / embedder.std)
        torch.testing.assert_close(embedder.features(images), expected)
    with pytest.raises(ConfigError, match=f"backbone '{name}' pools by itself; set pooling to 'avg'"):
        create(name, size=size, pooling="gem")


def test_preprocessing_comes_from_timm() -> None:
    import timm

    settings = timm.get_pretrained_cfg("tf_efficientnet_lite0")
    found = expected_by(settings.to_dict(), None)
    assert found == Preprocess(224, 256, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), "bicubic")
    smaller = expected_by(settings.to_dict(), 96)
    assert (smaller.size, smaller.resize) == (96, 109)


def test_preprocessing_is_timms_for_every_pretrained_tag() -> None:
    import timm
    from timm.data import create_transform, resolve_data_config

    checked, beyond = 0, set()
    for tag in timm.list_pretrained():
        settings = timm.get_pretrained_cfg(tag).to_dict()
        theirs = resolve_data_config({}, pretrained_cfg=settings)
        height, width = theirs["input_size"][1:]
        if height != width or theirs["crop_pct"] > 1 or theirs["crop_mode"] == "border":
            beyond.add(tag.split("_")[0])
            continue
        resize, crop, *_, normalise = create_transform(**theirs).transforms
        sides = resize.size if isinstance(resize.size, (tuple, list)) else [resize.size]
        found = expected_by(settings, None)
        assert {found.resize} == set(sides), tag
        assert {found.size} == set(crop.size), tag
        assert (found.fit == "squash") == (len(sides) == 2), tag
        assert found.interpolation == resize.interpolation.value, tag
        assert (found.mean, found.std) == (tuple(theirs["mean"]), tuple(theirs["std"])), tag
        torch.testing.assert_close(torch.tensor(found.mean), normalise.mean)
        checked += 1
    assert checked > 1700
    # What is left: pictures padded or not square, which `Preprocess` does not do.
    assert len(beyond) < 6, beyond


@pytest.mark.parametrize("sides", [(300, 411), (411, 300), (300, 302), (301, 300), (235, 236), (500, 500)])
@pytest.mark.parametrize(
    "tag", ["resnet18.a1_in1k", "vit_tiny_patch16_224.augreg_in21k", "fastvit_t8.apple_in1k"]
)
def test_pixels_are_those_of_timm(tag: str, sides: tuple[int, int]) -> None:
    import timm
    from PIL import Image
    from timm.data import create_transform, resolve_data_config

    settings = timm.get_pretrained_cfg(tag).to_dict()
    theirs = create_transform(**resolve_data_config({}, pretrained_cfg=settings))
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (*sides, 3), generator=generator, dtype=torch.uint8)
    picture = Image.fromarray(pixels.numpy())
    found = expected_by(settings, None)
    ours = found.center(found.from_image(picture)[None])[0]
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in (found.mean, found.std))
    assert torch.equal((ours - mean) / std, theirs(picture))


@pytest.mark.parametrize("given", [None, Preprocess(32, mean=(0.1, 0.1, 0.1))])
def test_pretrained_weights_bring_their_normalisation(
    monkeypatch: pytest.MonkeyPatch, given: Preprocess | None
) -> None:
    called = []

    def load_into(module: nn.Module, name: str, **settings: object) -> pretrained.Weights:
        called.append((name, settings))
        nn.init.ones_(next(module.parameters()))
        return pretrained.describe("mobilenetv2_100")

    monkeypatch.setattr(backbones, "load_into", load_into)
    size = 32 if given is None else None
    found = create_backbone("test_vit", pretrained=True, size=size, preprocess=given)
    assert called == [("test_vit", {"img_size": 32})]
    assert (next(found.module.parameters()) == 1).all()
    expected = pretrained.describe("mobilenetv2_100").mean if given is None else (0.1, 0.1, 0.1)
    assert found.preprocess.mean == expected


def test_our_own_backbone_has_no_pretrained_weights_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "nearfar"):
        Embedder("nearfar/small")
    assert "'nearfar/small' has no pretrained weights; it starts from nothing" in caplog.text


def test_a_transformer_takes_another_size() -> None:
    assert create("test_vit", size=64).preprocess.size == 64


@pytest.mark.parametrize("backbone", ["test_vit", nn.Conv2d(4, 6, 3)])
def test_what_a_backbone_does_not_take_is_said(backbone: str | nn.Module) -> None:
    with pytest.raises(ConfigError, match=r"does not take images of 40 x 40 px: \w+"):
        create(backbone, size=40)


def test_pooling_of_tokens_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"backbone 'test_vit' pools by itself; set pooling to 'avg'"):
        create("test_vit", size=32, pooling="gem")


def test_channels_last_maps_are_pooled_by_their_backbone() -> None:
    found = create_backbone("swin_s3_tiny_224", pretrained=False, size=None, preprocess=None)
    assert (found.features, found.spatial) == (768, False)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("resnet81", r"unknown backbone 'resnet81'\. Did you mean 'resnet"),
        ("nearfar/smal", r"unknown backbone 'nearfar/smal'\. Did you mean 'nearfar/small'"),
        ("resnet18.nobody_in1k", "timm knows no weights 'resnet18.nobody_in1k'; leave out"),
    ],
)
def test_unknown_names(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        create(name)


def test_names() -> None:
    assert names("nearfar/*") == ["nearfar/small", "nearfar/small-group-norm"]
    assert "resnet18" in names("resnet?8")
    assert "resnet18" not in names("resnet5*")
    assert names()[0] == "nearfar/small"
    assert len(names()) > 500
    assert names("no such backbone") == []


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("*siglip2*", r"'\*siglip\*' is in the names of \d+ backbones: \w+siglip"),
        ("siglip", r"'\*siglip\*' is in the names of \d+ backbones"),
        ("ResNet5000", r"'\*resnet50\*' is in the names of \d+ backbones: \w+"),
        ("*augreg_in21k*", r"'\*augreg_in21k\*' is in the names of \d+ weights: \w+\.augreg_in21k"),
        ("*zzqqxx*", r"`nearfar models` lists all [\d,]+"),
        ("*" * 10_000, "`nearfar models` lists all"),
        ("x" * 10_000, "`nearfar models` lists all"),
    ],
)
def test_what_there_is_instead(pattern: str, sentence: str) -> None:
    found = backbones.nearest(pattern)
    assert re.match(sentence, found)
    assert len(found) < 400


class TestSmall:
    def test_size(self) -> None:
        embedder = Embedder("nearfar/small")
        weights = sum(parameter.numel() for parameter in embedder.parameters())
        assert 3e5 <= weights <= 1.2e6
        assert embedder.preprocess == Preprocess(48)

    def test_the_map_it_ends_with(self) -> None:
        assert Small()(torch.rand(1, 3, 48, 48)).shape == (1, 128, 6, 6)
        assert Small((16, 24, 32, 40), blocks=2)(torch.rand(1, 3, 48, 48)).shape == (1, 40, 3, 3)

    def test_with_group_norm_an_image_does_not_depend_on_the_others(self) -> None:
        embedder = Embedder("nearfar/small-group-norm", size=32)
        assert not [name for name, _ in embedder.named_buffers() if "running" in name]
        images = torch.rand(5, 3, 32, 32)
        alone = torch.cat([embedder.train()(image[None]) for image in images])
        torch.testing.assert_close(embedder(images), alone, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("size", [32, 48, 64, 96])
    def test_any_size(self, size: int) -> None:
        assert create("nearfar/small", size=size)(torch.rand(1, 3, size, size)).shape == (1, 8)

    def test_it_learns(self) -> None:
        torch.manual_seed(0)
        embedder = Embedder("nearfar/small", size=32, dim=16)
        images = torch.rand(6, 3, 1, 1).repeat_interleave(4, 0) * 0.3 + torch.rand(24, 3, 32, 32) * 0.7
        same = torch.arange(24)[:, None] // 4 == torch.arange(24) // 4
        optimizer = torch.optim.AdamW(embedder.parameters(), lr=3e-3)
        losses = []
        for _ in range(12):
            embeddings = embedder(images)
            similarity = embeddings @ embeddings.T
            loss = (similarity[~same].clamp(min=0).mean() - similarity[same].mean()) + 1
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.4 * losses[0]


class TestModule:
    def test_maps_and_vectors(self) -> None:
        convolution = nn.Conv2d(3, 6, 3)
        assert create(convolution, size=16, pooling="max").feature_dim == 6
        flat = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        embedder = create(flat, preprocess=Preprocess(16))
        assert embedder.feature_dim == 12
        assert embedder.preprocess == Preprocess(16)

    def test_another_output(self) -> None:
        with pytest.raises(ConfigError, match=r"returns \[1, 12, 1\] for one image; expected maps"):
            create(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Unflatten(1, (12, 1))), size=16)

    def test_size_and_preprocess(self) -> None:
        with pytest.raises(ConfigError, match="give either size or preprocess, not both"):
            create("nearfar/small", size=48, preprocess=Preprocess(48))


def test_probing_changes_neither_mode_nor_running_statistics() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    module[2].eval()
    create_backbone(module, pretrained=False, size=16, preprocess=None)
    assert [part.training for part in module] == [True, True, False]
    assert module[1].num_batches_tracked == 0
    with pytest.raises(RuntimeError), evaluating(module):
        raise RuntimeError
    assert [part.training for part in module] == [True, True, False]


def test_names_without_timm_say_what_to_install() -> None:
    program = (
        "import sys; sys.modules['timm'] = None\n"
        "from nearfar.errors import MissingExtra\n"
        "from nearfar.models import Embedder, names\n"
        "Embedder('nearfar/small')\n"
        "try: names()\n"
        "except MissingExtra as error: assert 'nearfar[train]' in str(error), error\n"
        "else: raise SystemExit(1)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
