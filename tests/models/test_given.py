"""What ``encode`` and ``similarity`` take: every usual kind of picture and of vectors, or one sentence."""

import io
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import nearfar
from nearfar.data import UnreadableImage
from nearfar.errors import CheckpointError, ConfigError, DataError
from nearfar.models import Embedder

LOW = [torch.float16, torch.bfloat16, torch.float64]


def small(**settings: object) -> Embedder:
    torch.manual_seed(0)
    return Embedder("nearfar/small", size=32, **{"dim": 8, **settings}).eval()


@pytest.fixture(scope="module")
def model() -> Embedder:
    return small()


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory, photo: np.ndarray) -> Path:
    path = tmp_path_factory.mktemp("pictures") / "photo.png"
    Image.fromarray(photo).save(path)
    return path


@pytest.fixture(scope="module")
def expected(model: Embedder, file: Path) -> torch.Tensor:
    return model.encode(str(file))


class Opened(io.BytesIO):
    """A file that cannot go back, as a socket."""

    def seekable(self) -> bool:
        return False


SAME: dict[str, Callable[[Path, np.ndarray], Any]] = {
    "path": lambda file, photo: file,
    "text": lambda file, photo: str(file),
    "numpy text": lambda file, photo: np.str_(file),
    "PIL": lambda file, photo: Image.open(file),
    "array": lambda file, photo: photo,
    "array, turned around twice": lambda file, photo: photo[..., ::-1].copy()[..., ::-1],
    "array with opacity": lambda file, photo: np.dstack([photo, np.full((40, 60), 255, np.uint8)]),
    "array of 16 bits": lambda file, photo: photo.astype(np.uint16) * 257,
    "array of floats": lambda file, photo: photo / 255,
    "array of float32": lambda file, photo: photo.astype(np.float32) / 255,
    "bytes": lambda file, photo: file.read_bytes(),
    "bytearray": lambda file, photo: bytearray(file.read_bytes()),
    "memoryview": lambda file, photo: memoryview(file.read_bytes()),
    "open file": lambda file, photo: io.BytesIO(file.read_bytes()),
    "socket": lambda file, photo: Opened(file.read_bytes()),
    "Hugging Face bytes": lambda file, photo: {"bytes": file.read_bytes(), "path": None},
    "Hugging Face bytes and a name": lambda file, photo: {"bytes": file.read_bytes(), "path": "gone.png"},
    "Hugging Face path": lambda file, photo: {"bytes": None, "path": str(file)},
}


class TestPictures:
    @pytest.mark.parametrize("kind", SAME)
    def test_one_and_several(
        self, model: Embedder, file: Path, photo: np.ndarray, expected: torch.Tensor, kind: str
    ) -> None:
        make = SAME[kind]
        assert torch.equal(model.encode(make(file, photo)), expected)
        for several in (
            [make(file, photo), file],
            (make(file, photo), file),
            iter([make(file, photo), file]),
        ):
            found = model.encode(several)
            assert found.shape == (2, 8)
            torch.testing.assert_close(found, expected.expand(2, 8))
        torch.testing.assert_close(model.similarity(make(file, photo), [file, file]), torch.ones(1, 2))

    def test_grey(self, model: Embedder, photo: np.ndarray) -> None:
        grey = photo[..., 0]
        expected = model.encode(np.dstack([grey] * 3))
        for same in (
            grey,
            grey[..., None],
            grey / 255,
            [grey],
            Image.fromarray(grey),
            grey.astype(np.uint16) * 257,
        ):
            torch.testing.assert_close(model.encode(same), expected)
        black = model.encode(np.zeros((40, 60), bool))
        torch.testing.assert_close(black, model.encode(np.zeros((40, 60, 3), np.uint8)))

    def test_transparent_is_on_white(self, model: Embedder) -> None:
        clear = np.zeros((40, 60, 4), np.uint8)
        torch.testing.assert_close(model.encode(clear), model.encode(np.full((40, 60, 3), 255, np.uint8)))

    def test_batches(self, model: Embedder, photo: np.ndarray, file: Path) -> None:
        batch = np.stack([photo, photo[::-1], 255 - photo])
        expected = torch.cat([model.encode(image) for image in batch])
        torch.testing.assert_close(model.encode(batch), expected)
        torch.testing.assert_close(model.encode(batch, batch_size=2), expected)
        torch.testing.assert_close(model.encode(image for image in batch), expected)
        objects = np.empty(2, object)
        objects[:] = [photo, str(file)]
        assert model.encode(objects).shape == (2, 8)
        assert model.encode(np.array([str(file)] * 2)).shape == (2, 8)

    def test_tensors(self, model: Embedder) -> None:
        batch = torch.rand(3, 3, 32, 32)
        expected = model.encode(batch)
        torch.testing.assert_close(model.encode(batch[1]), expected[1:2])
        torch.testing.assert_close(model.encode(list(batch)), expected)
        torch.testing.assert_close(model.encode(row for row in batch), expected)
        for dtype in LOW:
            found = model.encode(batch.to(dtype))
            assert found.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=0, atol=0.02 if dtype != torch.float64 else 1e-6)
            assert model.encode([batch[0].to(dtype), batch[1]]).shape == (2, 8)
        bytes_ = (batch * 255).to(torch.uint8)
        expected = model.encode(bytes_)
        torch.testing.assert_close(model.encode(list(bytes_)), expected)
        torch.testing.assert_close(model.encode(bytes_[0]), expected[:1])
        larger = torch.nn.functional.pad(bytes_, (4, 4, 4, 4))
        torch.testing.assert_close(model.encode(larger), expected)
        torch.testing.assert_close(model.encode([larger[0], bytes_[1]]), expected[:2])

    def test_tensors_that_look_normalised_are_told(
        self, model: Embedder, caplog: pytest.LogCaptureFixture
    ) -> None:
        model.encode(torch.rand(4, 3, 32, 32) * 1.2 - 0.1)  # as a resize may overshoot
        assert not caplog.text
        for given in (torch.rand(4, 3, 32, 32) * 255, 4 * torch.rand(4, 3, 32, 32) - 2):
            caplog.clear()
            model.encode(given, batch_size=2)
            assert caplog.text.count("expected values in [0, 1], which the model itself normalises") == 1

    def test_kinds_side_by_side(self, model: Embedder, photo: np.ndarray, file: Path) -> None:
        given = [photo, str(file), torch.rand(3, 32, 32), file.read_bytes(), {"path": str(file)}]
        torch.testing.assert_close(model.encode(given), torch.cat([model.encode(image) for image in given]))

    def test_a_generator_is_read_as_it_comes(self, model: Embedder, photo: np.ndarray) -> None:
        drawn, seen = [], []

        def pictures():
            for number in range(7):
                drawn.append(number)
                yield photo

        def progress(done: int, total: int) -> None:
            seen.append((done, total, len(drawn)))

        assert model.encode(pictures(), batch_size=2, progress=progress).shape == (7, 8)
        assert [(done, total) for done, total, _ in seen] == [(2, 2), (4, 4), (6, 6), (7, 7)]
        assert seen[0][2] <= 4  # one batch ahead

    @pytest.mark.parametrize(
        "empty",
        [
            [],
            (),
            iter([]),
            np.array([]),
            np.zeros((0, 40, 60, 3), np.uint8),
            torch.zeros(0, 3, 32, 32),
            np.array([], str),
        ],
        ids=lambda empty: type(empty).__name__,
    )
    def test_none(self, model: Embedder, empty: Any) -> None:
        assert model.encode(empty).shape == (0, 8)
        assert model.encode(empty, head=False).shape == (0, 128)

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            (None, "image 0 is NoneType None; expected a path"),
            (5, "image 0 is int 5; expected a path"),
            ([None], "image 0 is NoneType None"),
            (np.zeros(5), "an array of 5 float64 is no picture; expected a path"),
            (np.zeros((3, 40, 60), np.uint8), r"image 0 is an array \[3, 40, 60\]; a picture is \[h, w\]"),
            (np.zeros((2, 3, 40, 60), np.uint8), r"arrays have their channels last, \[n, h, w, 3\]; torch\.from_numpy"),
            (np.zeros((1, 2, 40, 60, 3), np.uint8), r"an array \[1, 2, 40, 60, 3\]"),
            (np.zeros((0, 60, 3), np.uint8), r"an array \[0, 60, 3\]"),
            (np.zeros((40, 60, 3), np.int64), "is an array of int64; expected uint8, or floats"),
            (np.zeros((40, 60, 3), complex), "is an array of complex128; expected uint8"),
            (np.full((40, 60, 3), 200.0), "has floats from 200 to 200; expected them in"),
            (np.full((40, 60), np.nan), "has floats from nan to nan"),
            ([np.zeros((4, 4, 3), np.uint8), np.full((4, 4), -1.0)], "image 1 has floats from -1 to -1"),
            (torch.zeros(32, 32), r"the tensor is torch\.float32 \[32, 32\]; expected \[n, 3, h, w\]"),
            (torch.zeros(2, 32, 32, 3), r"the tensor is torch\.float32 \[2, 32, 32, 3\]"),
            (torch.zeros(2, 60, 40, 3, dtype=torch.uint8), r"the tensor is torch\.uint8 \[2, 60, 40, 3\]"),
            (torch.zeros(2, 3, 32, 32, dtype=torch.int64), r"the tensor is torch\.int64"),
            (torch.zeros(2, 3, 32, 32, dtype=torch.complex64), r"the tensor is torch\.complex64"),
            ([torch.zeros(3, 32, 32), torch.zeros(3, 40, 40)], r"\[3, 32, 32\] and \[3, 40, 40\]; tensors are not resized"),
            ({"image": "x.png", "label": 3}, "a dict with 'image', 'label'; expected 'bytes' of a picture or its 'path'"),
            ({"bytes": None, "path": None}, "a dict with 'bytes', 'path'; expected"),
            ({}, "a dict with nothing"),
            (io.StringIO("text"), "image 0 is a file opened as text; open it in binary mode"),
            (["x" * 10_000, 5], None),
            ([object()], "image 0 is object <object"),
        ],
    )  # fmt: skip
    def test_what_is_no_picture(self, model: Embedder, given: Any, sentence: str | None) -> None:
        with pytest.raises(DataError, match=sentence) as caught:
            model.encode(given)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"no picture", b"\x89PNG\r\n\x1a\n" + bytes(50)])
    def test_bytes_that_are_no_picture(self, model: Embedder, content: bytes) -> None:
        with pytest.raises(UnreadableImage, match=r"cannot read the image 'image 1': \w+"):
            model.encode([np.zeros((4, 4), np.uint8), content])

    def test_a_file_is_read_from_its_beginning(
        self, model: Embedder, file: Path, expected: torch.Tensor
    ) -> None:
        with file.open("rb") as opened:
            assert torch.equal(model.encode(opened), expected)
            assert torch.equal(model.encode([opened]), expected)


class TestVectors:
    @pytest.mark.parametrize("kind", ["float16", "float32", "float64", "bfloat16", ">f4", "longdouble"])
    def test_any_floating_point_type(self, model: Embedder, kind: str) -> None:
        vectors = torch.randn(4, 8, dtype=torch.float64)
        unit = torch.nn.functional.normalize(vectors, dim=1)
        if kind == "bfloat16":
            given = [vectors.bfloat16()]
        elif kind in (">f4", "longdouble"):
            given = [vectors.numpy().astype(kind)]
        else:
            given = [vectors.to(getattr(torch, kind)), vectors.numpy().astype(kind)]
        loose = {"float16": 2e-3, "bfloat16": 2e-2}.get(kind, 1e-6)
        for rows in given:
            for a, b, expected in [
                (rows, rows, unit @ unit.T),
                (rows[0], rows, unit[:1] @ unit.T),
                (rows, rows[1], unit @ unit[1:2].T),
                (rows[2], rows[1], unit[2:3] @ unit[1:2].T),
                (list(rows), rows, unit @ unit.T),
                ([rows[3]], rows, unit[3:] @ unit.T),
            ]:
                found = model.similarity(a, b)
                assert found.dtype == torch.float32
                torch.testing.assert_close(found, expected.float(), rtol=0, atol=loose)

    def test_what_embed_writes(self, model: Embedder, tmp_path: Path) -> None:
        vectors = model.encode(torch.rand(3, 3, 32, 32))
        np.savez(tmp_path / "v.npz", embedding=vectors.numpy())
        saved = np.load(tmp_path / "v.npz")["embedding"]
        torch.testing.assert_close(model.similarity(saved, saved), vectors @ vectors.T)
        torch.testing.assert_close(model.similarity(saved, vectors.tolist()), vectors @ vectors.T)
        torch.testing.assert_close(model.similarity(saved[0].tolist(), vectors), vectors[:1] @ vectors.T)

    def test_vectors_need_not_be_those_of_this_model(self, model: Embedder) -> None:
        assert model.similarity(torch.randn(2, 128), torch.randn(3, 128)).shape == (2, 3)
        assert model.similarity(torch.randn(2, 8), torch.rand(3, 3, 32, 32)).shape == (2, 3)

    def test_huge_and_tiny_numbers_of_float64(self, model: Embedder) -> None:
        rows = torch.tensor([[3.0, 4.0], [4.0, 3.0]], dtype=torch.float64)
        for scale in (1e200, 1e-200):
            torch.testing.assert_close(
                model.similarity(scale * rows, rows), torch.tensor([[1, 0.96], [0.96, 1]])
            )
        assert model.similarity(torch.zeros(1, 2, dtype=torch.float64), rows).tolist() == [[0, 0]]

    @pytest.mark.parametrize(
        "empty", [[], np.array([]), torch.zeros(0, 8), np.zeros((0, 128), np.float32), torch.zeros(0)]
    )
    def test_none(self, model: Embedder, empty: Any) -> None:
        vectors = torch.randn(3, 8)
        assert model.similarity(empty, vectors).shape == (0, 3)
        assert model.similarity(vectors, empty).shape == (3, 0)
        assert model.similarity(empty, empty).shape == (0, 0)

    @pytest.mark.parametrize(
        ("given", "sentence"),
        [
            (np.zeros((2, 8), int), r"a is torch\.int64 \[2, 8\]; vectors are floating point"),
            (np.zeros((2, 8), np.uint8), r"a is torch\.uint8 \[2, 8\].*a grey picture goes into a list"),
            (torch.zeros(8, dtype=torch.long), r"a is torch\.int64 \[8\]; vectors are floating point"),
            (torch.zeros(2, 8, dtype=torch.complex64), "vectors are floating point"),
            (np.zeros((2, 8), bool), "vectors are floating point"),
            (torch.tensor(1.0), r"a is torch\.float32 \[\]; vectors are floating point"),
            (np.float32(1), None),
            (np.array(["2020-01-01"], "datetime64[D]"), "vectors are floating point"),
            ([torch.zeros(8), torch.zeros(9)], "a has vectors of 8 and of 9 numbers"),
            (torch.zeros(2, 9), "the vectors of a have 9 numbers, but those of b have 8"),
            (5, "image 0 is int 5"),
        ],
    )
    def test_what_is_none(self, model: Embedder, given: Any, sentence: str | None) -> None:
        with pytest.raises(DataError, match=sentence) as caught:
            model.similarity(given, torch.randn(2, 8))
        assert "\n" not in str(caught.value)


class TestTypes:
    @pytest.mark.parametrize("dtype", LOW, ids=str)
    @pytest.mark.parametrize(
        "settings",
        [
            {},
            {"pooling": "gem"},
            {"pooling": "max"},
            {"pooling": "avg+max"},
            {"layer_norm": True},
            {"head": "none"},
        ],
        ids=str,
    )
    def test_a_converted_model_can_be_called(self, dtype: torch.dtype, settings: dict[str, object]) -> None:
        exact, model = small(**settings), small(**settings).to(dtype)
        images = torch.rand(2, 3, 32, 32)
        loose = {torch.float64: 1e-5, torch.float16: 0.01, torch.bfloat16: 0.06}[dtype]
        with torch.no_grad():
            expected = exact(images)
            for kind in (torch.float32, *LOW):
                assert model.project(images.to(kind)).dtype == torch.float32
                assert model.features(images.to(kind)).dtype == torch.float32
                found = model(images.to(kind))
                assert found.dtype == torch.float32
                torch.testing.assert_close(
                    found, expected, rtol=0, atol=max(loose, 0.02 if kind in LOW[:2] else 0)
                )
        torch.testing.assert_close(model.encode(images), expected, rtol=0, atol=loose)
        torch.testing.assert_close(
            model.encode((images * 255).to(torch.uint8)), expected, rtol=0, atol=loose + 0.02
        )

    @pytest.mark.parametrize("name", ["test_vit", "test_efficientnet", "test_convnext"])
    @pytest.mark.parametrize("dtype", LOW, ids=str)
    def test_backbones_of_timm(self, dtype: torch.dtype, name: str) -> None:
        torch.manual_seed(0)
        model = Embedder(name, pretrained=False, size=32, dim=8).to(dtype).eval()
        found = model.encode(torch.rand(2, 3, 32, 32))
        torch.testing.assert_close(found.norm(dim=1), torch.ones(2))

    @pytest.mark.parametrize(
        ("dtype", "weights"),
        [
            (torch.bfloat16, torch.float32),
            (torch.float16, torch.float32),
            (torch.bfloat16, torch.float64),
            (torch.bfloat16, torch.bfloat16),
            (torch.float16, torch.float16),
        ],
    )
    def test_under_autocast(self, dtype: torch.dtype, weights: torch.dtype) -> None:
        exact, model, images = small(), small().to(weights), torch.rand(2, 3, 32, 32)
        with torch.no_grad(), torch.autocast("cpu", dtype=dtype):
            for given in (images, images.double(), images.half()):
                found = model(given)
                assert found.dtype == torch.float32
                torch.testing.assert_close(found, exact(images), rtol=0, atol=0.06)
            assert model.encode(images).dtype == torch.float32

    def test_a_head_or_a_part_of_it_of_another_type(self) -> None:
        model = small(layer_norm=True)
        images = torch.rand(2, 3, 32, 32)
        expected = model(images)
        for part in (model.head[1], model.head[0], model.backbone):
            part.bfloat16()
            torch.testing.assert_close(model(images), expected, rtol=0, atol=0.06)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
    def test_gradients_have_the_type_of_the_weights(self, dtype: torch.dtype) -> None:
        model = small().to(dtype).train()
        model(torch.rand(4, 3, 32, 32)).square().sum().backward()
        assert all(p.grad is not None and p.grad.dtype == dtype for p in model.parameters())


class TestNumbers:
    @pytest.mark.parametrize("eight", [np.int64(8), np.int32(8), np.uint8(8), torch.tensor(8), np.array(8)])
    def test_whole_numbers_are_whole_numbers(self, tmp_path: Path, eight: Any) -> None:
        model = Embedder("nearfar/small", dim=eight, size=4 * eight)
        assert type(model.dim) is int
        again = nearfar.load(model.save(tmp_path))
        assert (again.dim, again.preprocess.size) == (8, 32)
        assert again.fingerprint() == model.fingerprint()

    @pytest.mark.parametrize("value", [8.0, True, "8", None, np.float64(8), [8]])
    def test_others_are_refused(self, value: Any) -> None:
        with pytest.raises(ConfigError, match="dim must be a whole number; got"):
            Embedder("nearfar/small", dim=value)

    def test_metrics(self, tmp_path: Path) -> None:
        y = np.arange(12) // 3
        result = nearfar.evaluate.retrieval(
            np.random.default_rng(0).standard_normal((12, 8)), y, bootstrap=10
        )
        for metrics, expected in [
            (result.to_dict(), None),
            ({"recall": np.float32(0.5)}, {"recall": 0.5}),
            ({"recall": np.float64(0.25), "n": np.int64(3), "yes": np.bool_(True)}, {"recall": 0.25, "n": 3, "yes": True}),
            ({"recall": torch.tensor(0.5), "all": torch.tensor([1, 2])}, {"recall": 0.5, "all": [1, 2]}),
            ({"cmc": np.array([0.5, 1.0])}, {"cmc": [0.5, 1.0]}),
            ({"recall_at_k": {1: 0.5, np.int64(2): 0.75}}, {"recall_at_k": {"1": 0.5, "2": 0.75}}),
            ({"ends": (np.float32(0.5), 1)}, {"ends": [0.5, 1]}),
            ({}, {}),
        ]:  # fmt: skip
            small().save(tmp_path, metrics=metrics, classes=np.array(["a", "b"]))
            details = nearfar.load(tmp_path).details
            assert details["classes"] == ["a", "b"]
            if expected is None:
                assert details["metrics"]["map_at_r"] == result.map_at_r
                assert details["metrics"]["recall_at_k"]["1"] == result.recall_at_k[1]
            else:
                assert details["metrics"] == expected
                assert {k: type(v) for k, v in details["metrics"].items()} == {
                    k: type(v) for k, v in expected.items()
                }
            (tmp_path / "model.toml").unlink()
            assert nearfar.load(tmp_path).details == details

    @pytest.mark.parametrize(
        ("details", "sentence"),
        [
            ({"metrics": {"a": {"b": None}}}, r"'metrics\.a\.b' is None, which model\.toml cannot hold"),
            ({"metrics": {"a": object()}}, r"'metrics\.a' is <object"),
            ({"metrics": {"a": 1j}}, r"'metrics\.a' is 1j"),
            ({"metrics": {"a": 10**400}}, r"'metrics\.a' is "),
            ({"metrics": {"a": 10**5000}}, r"'metrics\.a' is a whole number of 16610 bits"),
            ({"metrics": {"a": {1, 2}}}, r"'metrics\.a' is \{1, 2\}"),
            ({"metrics": {"a": b"x" * 10_000}}, r"'metrics\.a' is b'xxx"),
            ({"metrics": {(1, 2): 3}}, r"'metrics' has the key \(1, 2\); keys must be text"),
            ({"metrics": 0.5}, "metrics is 0.5; expected a table of numbers"),
            ({"metrics": [1, 2]}, r"metrics is \[1, 2\]; expected a table"),
            ({"classes": [["a"]]}, r"classes is \[\['a'\]\]; expected a list of names"),
            ({"classes": 5}, "classes is 5; expected a list of names"),
            ({"classes": "cat"}, "classes is 'cat'; expected a list of names"),
            ({"command": ["a"]}, r"command is \['a'\]; expected text"),
        ],
    )
    def test_what_cannot_be_written_is_refused_first(
        self, tmp_path: Path, details: dict[str, Any], sentence: str
    ) -> None:
        with pytest.raises(ValueError, match=sentence) as caught:
            small().save(tmp_path / "m", **details)
        assert len(str(caught.value)) < 300
        assert not (tmp_path / "m").exists()

    def test_names_that_are_no_utf_8(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        with caplog.at_level(logging.WARNING):
            small().save(tmp_path, classes=["caf\udce9", "b"])
        assert nearfar.load(tmp_path).details["classes"] == ["caf?", "b"]
        assert "'classes' holds a name that is no UTF-8" in caplog.text


@pytest.mark.parametrize("given", [0, -1, 2.5, "2", None, True, float("nan")])
def test_a_batch_size_that_is_none(model: Embedder, file: Path, given: Any) -> None:
    for images in ([file], torch.rand(2, 3, 32, 32)):
        with pytest.raises(DataError, match="batch_size must be a whole number, 1 or more; got "):
            model.encode(images, batch_size=given)
    assert len(model.encode([file] * 3, batch_size=np.int64(2))) == 3  # type: ignore[arg-type]


def test_a_folder_is_no_picture(model: Embedder, file: Path) -> None:
    with pytest.raises(UnreadableImage, match="it is a folder"):
        model.encode([file.parent])


def test_a_model_is_not_saved_onto_a_file(model: Embedder, file: Path) -> None:
    before = file.read_bytes()
    with pytest.raises(CheckpointError, match="is a file; a model is written to a folder"):
        model.save(file)
    assert file.read_bytes() == before
