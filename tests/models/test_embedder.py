"""The embedder as a whole: what it returns, encodes, saves and refuses."""

import json
import os
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

import nearfar
from nearfar.data import Preprocess, UnreadableImage, read_table
from nearfar.errors import CheckpointError, DataError
from nearfar.models import Embedder


def small(**settings: object) -> Embedder:
    torch.manual_seed(0)
    return Embedder("nearfar/small", size=32, **{"dim": 8, **settings})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Eleven pictures of noise in two classes."""
    random = np.random.default_rng(0)
    for number in range(11):
        path = tmp_path / "set" / "ab"[number % 2] / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(random.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
    return tmp_path / "set"


class TestForward:
    def test_unit_length_float32(self) -> None:
        for settings in ({}, {"layer_norm": True}, {"head": "none"}, {"pooling": "gem"}):
            embedder = small(**settings)
            embeddings = embedder(torch.rand(3, 3, 32, 32))
            assert embeddings.dtype == torch.float32
            assert embeddings.shape == (3, embedder.dim)
            torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(3))

    def test_parts_in_order(self) -> None:
        embedder = small(pooling="avg+max", layer_norm=True).eval()
        images = torch.rand(2, 3, 32, 32)
        mean, std = torch.tensor(embedder.preprocess.mean), torch.tensor(embedder.preprocess.std)
        maps = embedder.backbone((images - mean[:, None, None]) / std[:, None, None])
        features = maps.mean((2, 3)) + maps.amax((2, 3))
        torch.testing.assert_close(embedder.features(images), features)
        norm, linear = embedder.head
        expected = linear(norm(features))
        torch.testing.assert_close(embedder(images), expected / expected.norm(dim=1, keepdim=True))

    def test_without_head_the_dimension_is_that_of_the_features(self) -> None:
        embedder = small(head="none").eval()
        assert embedder.dim == embedder.feature_dim == 128
        images = torch.rand(2, 3, 32, 32)
        torch.testing.assert_close(
            embedder(images), torch.nn.functional.normalize(embedder.features(images), dim=1)
        )

    def test_a_zero_vector_stays_zero_with_zero_gradient(self) -> None:
        embedder = small()
        nn.init.zeros_(embedder.head[-1].weight)
        nn.init.zeros_(embedder.head[-1].bias)
        embeddings = embedder(torch.rand(2, 3, 32, 32))
        assert (embeddings == 0).all()
        embeddings.sum().backward()
        assert all((p.grad == 0).all() for p in embedder.parameters() if p.grad is not None)

    def test_under_autocast_the_head_stays_float32(self) -> None:
        embedder = small().eval()
        images = torch.rand(2, 3, 32, 32)
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            low, features = embedder(images), embedder.features(images)
        assert low.dtype == features.dtype == torch.float32
        torch.testing.assert_close(low, nearfar.similarity.normalize(embedder.head(features)).detach())
        torch.testing.assert_close(low, embedder(images).detach(), rtol=0, atol=0.03)

    @pytest.mark.parametrize(
        "images",
        [
            torch.zeros(2, 3, 32, 32, dtype=torch.uint8),
            torch.zeros(3, 32, 32),
            torch.zeros(2, 1, 32, 32),
        ],
    )
    def test_other_images_are_refused(self, images: torch.Tensor) -> None:
        with pytest.raises(DataError, match=r"images are torch\.\w+ \[.*\]; expected float \[n, 3, h, w\]"):
            small()(images)


class TestFrozenBatchNorm:
    def test_statistics_stay_and_weights_train(self) -> None:
        embedder = small(freeze_batch_norm=True)
        before = {name: buffer.clone() for name, buffer in embedder.named_buffers()}
        embedder.train().train(True)
        embedder(torch.rand(4, 3, 32, 32)).sum().backward()
        for name, buffer in embedder.named_buffers():
            assert torch.equal(buffer, before[name]), name
        norms = [m for m in embedder.modules() if isinstance(m, nn.BatchNorm2d)]
        assert norms
        assert not any(norm.training for norm in norms)
        assert all(norm.weight.grad is not None and norm.weight.grad.any() for norm in norms)
        assert embedder.training
        assert embedder.head.training

    def test_otherwise_they_move(self) -> None:
        embedder = small()
        before = embedder.state_dict()["backbone.stages.0.1.running_mean"].clone()
        embedder(torch.rand(4, 3, 32, 32))
        assert not torch.equal(before, embedder.state_dict()["backbone.stages.0.1.running_mean"])


class TestEncode:
    def test_paths_images_tables_and_tensors_agree(self, folder: Path) -> None:
        embedder, table = small(), read_table(folder)
        paths = table.path.tolist()
        expected = embedder.encode(paths)
        assert expected.shape == (11, 8)
        assert expected.dtype == torch.float32
        assert not expected.requires_grad
        torch.testing.assert_close(embedder.encode([Path(path) for path in paths]), expected)
        torch.testing.assert_close(embedder.encode(table), expected)
        torch.testing.assert_close(embedder.encode([Image.open(path) for path in paths]), expected)
        pixels = torch.stack([embedder.preprocess.load(path) for path in paths])
        torch.testing.assert_close(embedder.encode(pixels), expected)
        torch.testing.assert_close(embedder.encode(embedder.preprocess.center(pixels)), expected)
        torch.testing.assert_close(embedder.encode(paths[3]), expected[3:4])
        torch.testing.assert_close(embedder.encode(Path(paths[3])), expected[3:4])

    @pytest.mark.parametrize("batch_size", [1, 4, 11, 64])
    def test_whatever_the_batch_size(self, folder: Path, batch_size: int) -> None:
        embedder, table = small(), read_table(folder)
        torch.testing.assert_close(embedder.encode(table, batch_size=batch_size), embedder.encode(table))

    def test_the_mode_comes_back_and_nothing_moves(self, folder: Path) -> None:
        embedder = small(freeze_batch_norm=True)
        modes = [module.training for module in embedder.modules()]
        before = embedder.fingerprint()
        embedder.encode(read_table(folder))
        assert [module.training for module in embedder.modules()] == modes
        assert embedder.fingerprint() == before

    def test_features_of_unit_length_without_head(self, folder: Path) -> None:
        embedder = small().eval()
        features = embedder.encode(read_table(folder), head=False)
        assert features.shape == (11, 128)
        torch.testing.assert_close(features.norm(dim=1), torch.ones(11))

    def test_progress_and_nothing(self, folder: Path) -> None:
        seen: list[tuple[int, int]] = []
        embedder = small()
        embedder.encode(
            read_table(folder), batch_size=4, progress=lambda done, total: seen.append((done, total))
        )
        assert seen == [(4, 11), (8, 11), (11, 11)]
        assert embedder.encode([]).shape == (0, 8)

    def test_its_result_can_be_trained_on(self, folder: Path) -> None:
        weight = torch.zeros(8, requires_grad=True)
        (small().encode(read_table(folder)) @ weight).sum().backward()
        assert weight.grad is not None

    def test_an_unreadable_file_is_named(self, folder: Path) -> None:
        (folder / "a" / "x.png").write_text("no image")
        with pytest.raises(UnreadableImage, match=r"a/x\.png'"):
            small().encode(read_table(folder))

    def test_similarity(self, folder: Path) -> None:
        embedder, paths = small(), read_table(folder).path.tolist()
        embeddings = embedder.encode(paths)
        expected = embeddings[:3] @ embeddings.T
        torch.testing.assert_close(embedder.similarity(paths[:3], paths), expected)
        torch.testing.assert_close(embedder.similarity(5 * embeddings[:3], paths), expected)


class TestSaved:
    def test_round_trip(self, tmp_path: Path, folder: Path) -> None:
        embedder = small(pooling="gem", layer_norm=True, freeze_batch_norm=True)
        embedder.train()
        path = embedder.save(
            tmp_path / "model",
            classes=["a", 'b "quoted"'],
            metrics={"recall_at_1": 0.5},
            command="nearfar train x",
        )
        assert sorted(os.listdir(path)) == ["model.toml", "weights.safetensors"]
        again = nearfar.load(path)
        assert not again.training
        assert again.freeze_batch_norm
        assert again.preprocess == embedder.preprocess
        assert again.fingerprint() == embedder.fingerprint()
        assert again.details == {
            "classes": ["a", 'b "quoted"'],
            "metrics": {"recall_at_1": 0.5},
            "command": "nearfar train x",
        }
        table = read_table(folder)
        assert torch.equal(again.encode(table), embedder.encode(table))
        described = tomllib.loads((path / "model.toml").read_text())
        assert described["model"]["backbone"] == "nearfar/small"
        assert described["nearfar"] == nearfar.__version__

    def test_a_run_folder_and_a_timm_backbone(self, tmp_path: Path) -> None:
        torch.manual_seed(0)
        embedder = Embedder("test_vit", pretrained=False, size=32, head="none")
        embedder.save(tmp_path / "run" / "model")
        again = Embedder.load(tmp_path / "run")
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(again.encode(images), embedder.encode(images))

    def test_a_module_of_ones_own(self, tmp_path: Path) -> None:
        def module() -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())

        embedder = Embedder(module(), dim=4, preprocess=Preprocess(16))
        embedder.save(tmp_path)
        with pytest.raises(CheckpointError, match="saved from a module of its own; give it, as in load"):
            Embedder.load(tmp_path)
        images = torch.rand(2, 3, 16, 16)
        assert torch.equal(Embedder.load(tmp_path, backbone=module()).encode(images), embedder.encode(images))
        with pytest.raises(
            CheckpointError, match=r"weight 'backbone\.0\.weight' of shape \[6, 3, 3, 3\] but the"
        ):
            Embedder.load(tmp_path, backbone=nn.Sequential(nn.Conv2d(3, 6, 5), nn.ReLU()))
        with pytest.raises(CheckpointError, match=r"has no weight 'backbone\.2\.weight'"):
            Embedder.load(tmp_path, backbone=nn.Sequential(*module(), nn.Conv2d(6, 6, 1)))
        with pytest.raises(CheckpointError, match=r"has weight 'backbone\.0\.bias', which the model lacks"):
            Embedder.load(tmp_path, backbone=nn.Sequential(nn.Conv2d(3, 6, 3, bias=False), nn.ReLU()))

    def test_loading_leaves_the_random_state_alone(self, tmp_path: Path) -> None:
        small().save(tmp_path)
        state = torch.get_rng_state()
        Embedder.load(tmp_path)
        assert torch.equal(state, torch.get_rng_state())

    def test_fingerprint_knows_weights_and_preprocessing(self) -> None:
        embedder = small()
        first = embedder.fingerprint()
        assert first == small().fingerprint()
        assert len(first) == 16
        other = Embedder("nearfar/small", dim=8, preprocess=Preprocess(32, 36))
        other.load_state_dict(embedder.state_dict())
        assert other.fingerprint() != first
        with torch.no_grad():
            next(embedder.parameters())[0, 0, 0, 0] += 1e-3
        assert embedder.fingerprint() != first

    def test_no_model(self, tmp_path: Path) -> None:
        with pytest.raises(
            CheckpointError, match=r"is not a model; expected a folder with weights\.safetensors"
        ):
            nearfar.load(tmp_path / "none")

    def test_damage_is_noticed(self, tmp_path: Path) -> None:
        path = small().save(tmp_path / "model")
        weights = path / "weights.safetensors"
        whole = weights.read_bytes()
        changed = bytearray(whole)
        changed[-5] ^= 0x40
        weights.write_bytes(changed)
        with pytest.raises(
            CheckpointError, match=r"weights\.safetensors' is damaged: weight 'head\.0\.weight' is not what"
        ):
            nearfar.load(path)
        weights.write_bytes(whole[:-100])
        with pytest.raises(CheckpointError, match=r"weights\.safetensors' is damaged"):
            nearfar.load(path)
        weights.write_bytes(whole)
        (path / "model.toml").write_text("[model\n")
        with pytest.raises(CheckpointError, match=r"model\.toml' is damaged"):
            nearfar.load(path)
        save_file(load_file(weights), weights)
        with pytest.raises(CheckpointError, match="was not written by nearfar"):
            nearfar.load(path)

    def test_a_description_that_lacks_something(self, tmp_path: Path) -> None:
        text = (small().save(tmp_path) / "model.toml").read_text()
        (tmp_path / "model.toml").write_text(text.replace("[preprocess]", "[prepare]"))
        with pytest.raises(CheckpointError, match=r"does not describe its model .*'preprocess'.* or edited"):
            nearfar.load(tmp_path)

    def test_metrics_that_cannot_be_written_stop_before_anything_is(self, tmp_path: Path) -> None:
        with pytest.raises(TypeError, match=r"'metrics\.recall' is None"):
            small().save(tmp_path / "model", metrics={"recall": None})
        assert not (tmp_path / "model").exists()

    @pytest.mark.parametrize("file", ["weights.safetensors", "model.toml"])
    def test_no_space_left_loses_nothing(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
    ) -> None:
        old, new = small(), small(dim=4)
        old.save(tmp_path)
        replace = Path.replace

        def full(source: Path, target: Path) -> Path:
            if target.name == file:
                raise OSError(28, "No space left on device")
            return replace(source, target)

        monkeypatch.setattr(Path, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            new.save(tmp_path)
        # Between the two files the weights are new and carry their own description; before, all is old.
        expected = old if file == "weights.safetensors" else new
        assert nearfar.load(tmp_path).fingerprint() == expected.fingerprint()
        assert sorted(os.listdir(tmp_path)) == ["model.toml", "weights.safetensors"]

    def test_what_the_weights_say_of_themselves(self, tmp_path: Path) -> None:
        path = small().save(tmp_path, metrics={"recall_at_1": 0.25})
        (path / "model.toml").unlink()
        assert nearfar.load(path).details["metrics"] == {"recall_at_1": 0.25}
        from safetensors import safe_open

        with safe_open(path / "weights.safetensors", "pt") as file:
            assert json.loads(file.metadata()["nearfar"])["model"]["dim"] == 8
