"""Damage of a saved model is noticed when it is loaded, and named; a model from before loads as it did."""

import contextlib
import json
import random
import shutil
import tomllib
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save, save_file

import nearfar
from nearfar.errors import CheckpointError
from nearfar.models import Embedder
from nearfar.models.saved import fingerprint
from nearfar.toml import to_toml

WEIGHTS, DESCRIPTION = "weights.safetensors", "model.toml"


def small(seed: int = 0, **settings: object) -> Embedder:
    torch.manual_seed(seed)
    return Embedder("nearfar/small", size=32, **{"dim": 8, **settings})


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    details = {"classes": ["a", 'ä "b"'], "metrics": {"recall_at_1": 0.5}, "command": "nearfar train x"}
    return small().save(tmp_path_factory.mktemp("whole"), **details)


def put(folder: Path, weights: bytes | None, description: str | bytes | None) -> Path:
    folder.mkdir(exist_ok=True)
    for name, content in ((WEIGHTS, weights), (DESCRIPTION, description)):
        (folder / name).unlink(missing_ok=True)
        if content is not None:
            (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder


def refused(folder: Path, sentence: str) -> str:
    with pytest.raises(CheckpointError, match=sentence) as caught:
        nearfar.load(folder)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text.replace(str(folder), "")) < 500
    return text


class TestBits:
    def test_any_bit_of_the_header(self, whole: Path, tmp_path: Path) -> None:
        content = (whole / WEIGHTS).read_bytes()
        length = 8 + int.from_bytes(content[:8], "little")
        draw = random.Random(0)
        # Every byte of the length, and many places of the header.
        places = [*range(8), *draw.sample(range(8, length), 150)]
        for place in places:
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            put(tmp_path / "m", bytes(changed), (whole / DESCRIPTION).read_bytes())
            refused(tmp_path / "m", rf"{WEIGHTS}' (is damaged|was not written by nearfar, or is damaged)")

    def test_any_bit_of_a_tensor(self, whole: Path, tmp_path: Path) -> None:
        content = (whole / WEIGHTS).read_bytes()
        start = 8 + int.from_bytes(content[:8], "little")
        draw = random.Random(1)
        for place in [start, len(content) - 1, *draw.sample(range(start, len(content)), 60)]:
            changed = bytearray(content)
            changed[place] ^= 1 << draw.randrange(8)
            put(tmp_path / "m", bytes(changed), (whole / DESCRIPTION).read_bytes())
            text = refused(tmp_path / "m", rf"{WEIGHTS}' is damaged: weight '[\w.]+' is not what was saved")
            assert "copy both files again from where they came" in text

    def test_without_its_description_too(self, whole: Path, tmp_path: Path) -> None:
        changed = bytearray((whole / WEIGHTS).read_bytes())
        changed[-7] ^= 1
        refused(put(tmp_path / "m", bytes(changed), None), "is damaged: weight")

    @pytest.mark.parametrize("kept", [0, 4, 8, 100, 5000, -1])
    def test_truncated(self, whole: Path, tmp_path: Path, kept: int) -> None:
        content = (whole / WEIGHTS).read_bytes()
        folder = put(tmp_path / "m", content[:kept], (whole / DESCRIPTION).read_bytes())
        refused(folder, rf"{WEIGHTS}' is damaged")

    def test_zeros_in_the_middle_and_more_at_the_end(self, whole: Path, tmp_path: Path) -> None:
        content = (whole / WEIGHTS).read_bytes()
        middle = len(content) // 2
        for changed in (content[:middle] + bytes(4096) + content[middle + 4096 :], content + b"\0"):
            refused(put(tmp_path / "m", changed, (whole / DESCRIPTION).read_bytes()), "is damaged")


class TestTwoFiles:
    def test_swapped(self, tmp_path: Path) -> None:
        small(0).save(tmp_path / "a")
        small(1).save(tmp_path / "b")
        shutil.copy(tmp_path / "b" / WEIGHTS, tmp_path / "a" / WEIGHTS)
        text = refused(tmp_path / "a", rf"a/{WEIGHTS}' is damaged or was swapped.*a/{DESCRIPTION}'")
        assert "copy both files again" in text

    def test_a_save_that_was_cut_short_is_whole(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        small(0).save(tmp_path)
        old = (tmp_path / DESCRIPTION).read_bytes()
        new = small(1)
        new.save(tmp_path)
        (tmp_path / DESCRIPTION).write_bytes(old)
        assert nearfar.load(tmp_path).fingerprint() == new.fingerprint()
        assert "is of the model before: a save was cut short" in caplog.text

    def test_saved_twice_is_the_same_file(self, tmp_path: Path) -> None:
        small(0).save(tmp_path)
        small(1).save(tmp_path)
        once = (tmp_path / WEIGHTS).read_bytes()
        small(1).save(tmp_path)
        assert (tmp_path / WEIGHTS).read_bytes() == once
        small(0).save(tmp_path)
        nearfar.load(tmp_path)

    @pytest.mark.parametrize(
        "text", ["", "\n", "[model", "a = 1", "\xff\xfe", "[" * 5000 + "]" * 5000, "x = " + "[" * 5000]
    )
    def test_a_description_that_is_none(self, whole: Path, tmp_path: Path, text: str) -> None:
        folder = put(tmp_path / "m", (whole / WEIGHTS).read_bytes(), text.encode("latin-1"))
        assert "remove it: the weights carry a copy" in refused(folder, rf"{DESCRIPTION}'.* damaged")
        (folder / DESCRIPTION).unlink()
        assert nearfar.load(folder).details["classes"] == ["a", 'ä "b"']

    def test_an_editor_that_marks_its_files(self, whole: Path, tmp_path: Path) -> None:
        folder = put(
            tmp_path / "m", (whole / WEIGHTS).read_bytes(), "\ufeff" + (whole / DESCRIPTION).read_text()
        )
        assert nearfar.load(folder).dim == 8

    def test_classes_may_be_edited_and_the_model_may_not(self, whole: Path, tmp_path: Path) -> None:
        weights, text = (whole / WEIGHTS).read_bytes(), (whole / DESCRIPTION).read_text()
        folder = put(tmp_path / "m", weights, text.replace('classes = ["a"', 'classes = ["cat"'))
        assert nearfar.load(folder).details["classes"][0] == "cat"
        for before, after, key in [
            ("dim = 8", "dim = 9", "model.dim"),
            ('pooling = "avg"', 'pooling = "gem"', "model.pooling"),
            ("size = 32", "size = 16", "preprocess.size"),
            ('dtype = "float32"', 'dtype = "float64"', "dtype"),
        ]:
            assert before in text
            folder = put(tmp_path / "m", weights, text.replace(before, after, 1))
            refused(
                folder, rf"{DESCRIPTION}' is damaged or was edited: '{key}' is .*, but the weights were saved"
            )


def from_before(folder: Path, model: Embedder) -> Path:
    """Write a model as nearfar 0.1.0 did."""
    description = {
        "nearfar": "0.1.0",
        "fingerprint": model.fingerprint(),
        "command": "",
        "model": model.structure(),
        "preprocess": model.preprocess.to_dict(),
        "metrics": {},
        "classes": ["a"],
    }
    return put(
        folder, save(dict(model.state_dict()), {"nearfar": json.dumps(description)}), to_toml(description)
    )


class TestFromBefore:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
    def test_loads(self, tmp_path: Path, dtype: torch.dtype) -> None:
        model = small().to(dtype).eval()
        again = nearfar.load(from_before(tmp_path, model))
        assert again.fingerprint() == model.fingerprint()
        images = torch.rand(2, 3, 32, 32)
        assert torch.equal(again.encode(images), model.encode(images))

    def test_a_save_that_was_cut_short(self, tmp_path: Path) -> None:
        from_before(tmp_path / "a", small(0))
        from_before(tmp_path / "b", small(1))
        shutil.copy(tmp_path / "b" / WEIGHTS, tmp_path / "a" / WEIGHTS)
        assert nearfar.load(tmp_path / "a").fingerprint() == small(1).fingerprint()

    def test_a_changed_bit(self, tmp_path: Path) -> None:
        folder = from_before(tmp_path, small())
        content = bytearray((folder / WEIGHTS).read_bytes())
        content[-3] ^= 16
        (folder / WEIGHTS).write_bytes(content)
        refused(folder, rf"{WEIGHTS}' is damaged: its weights do not give the fingerprint")


class TestStrangers:
    """Files whose checksums are right and whose content is not what this model needs."""

    def rewritten(
        self, whole: Path, folder: Path, weights: dict[str, torch.Tensor], **changes: object
    ) -> Path:
        with safe_open(whole / WEIGHTS, "pt") as file:
            description = json.loads(file.metadata()["nearfar"])
        description = {k: v for k, v in description.items() if k not in ("checks", "checksum")} | changes
        named = {key: description[key] for key in ("model", "preprocess")}
        description["fingerprint"] = fingerprint(weights, named)
        return put(folder, save(weights, {"nearfar": json.dumps(description)}), to_toml(description))

    def test_another_type_than_declared(self, whole: Path, tmp_path: Path) -> None:
        weights = {
            name: value.double() if value.is_floating_point() else value
            for name, value in load_file(whole / WEIGHTS).items()
        }
        folder = self.rewritten(whole, tmp_path / "m", weights)
        refused(folder, r"of torch\.float64, but its description declares torch\.float32")
        assert nearfar.load(self.rewritten(whole, tmp_path / "m", weights, dtype="float64")).head[
            0
        ].weight.dtype == (torch.float64)

    @pytest.mark.parametrize("kind", [torch.complex64, torch.int32, torch.bool])
    def test_complex_and_whole_numbers(self, whole: Path, tmp_path: Path, kind: torch.dtype) -> None:
        weights = load_file(whole / WEIGHTS)
        weights["head.0.weight"] = weights["head.0.weight"].to(kind)
        refused(
            self.rewritten(whole, tmp_path / "m", weights),
            rf"weight 'head\.0\.weight' of {kind} but the model needs torch\.float32",
        )

    def test_written_by_others(self, whole: Path, tmp_path: Path) -> None:
        shutil.copytree(whole, tmp_path / "m")
        save_file(load_file(whole / WEIGHTS), tmp_path / "m" / WEIGHTS)
        refused(tmp_path / "m", "was not written by nearfar")

    @pytest.mark.parametrize("copy", ["", "[]", "3", "{}", "[" * 20000, '{"fingerprint": []}'])
    def test_a_copy_that_is_none(self, whole: Path, tmp_path: Path, copy: str) -> None:
        content = save(load_file(whole / WEIGHTS), {"nearfar": copy})
        for description in (None, (whole / DESCRIPTION).read_bytes()):
            refused(put(tmp_path / "m", content, description), WEIGHTS)


STRANGE = [
    [],
    {},
    3,
    2.5,
    -1,
    0,
    True,
    "",
    "x" * 10_000,
    [1, "two", 3],
    [[1]],
    10**400,
    float("nan"),
    float("inf"),
    {"a": {"b": []}},
]
KEYS = [
    ("fingerprint",), ("command",), ("dtype",), ("dtypes",), ("model",), ("preprocess",), ("metrics",), ("classes",),
    ("model", "backbone"), ("model", "dim"), ("model", "pooling"), ("model", "head"), ("model", "layer_norm"),
    ("model", "freeze_batch_norm"), ("model", "more"), ("preprocess", "size"), ("preprocess", "resize"),
    ("preprocess", "mean"), ("preprocess", "std"), ("preprocess", "interpolation"), ("preprocess", "fit"),
    ("preprocess", "more"), ("metrics", "recall_at_1"), ("dtypes", "head.0.weight"),
]  # fmt: skip


class TestStrangeDescriptions:
    @pytest.mark.parametrize("keys", KEYS, ids=".".join)
    def test_every_key_with_every_kind_of_value(
        self, whole: Path, tmp_path: Path, keys: tuple[str, ...]
    ) -> None:
        weights, text = (whole / WEIGHTS).read_bytes(), (whole / DESCRIPTION).read_text()
        harmless = 0
        for value in STRANGE:
            document = tomllib.loads(text)
            table = document
            for key in keys[:-1]:
                table = table[key]
            if type(table.get(keys[-1])) is type(value) and keys[0] in ("command", "metrics", "classes"):
                harmless += 1
                continue
            table[keys[-1]] = value
            folder = put(tmp_path / "m", weights, to_toml(document))
            try:
                nearfar.load(folder)
            except CheckpointError as error:
                sentence = str(error)
                assert DESCRIPTION in sentence
                assert keys[-1] in sentence or "fingerprint" in sentence
                assert len(sentence.replace(str(folder), "")) < 400
            else:
                harmless += 1
        assert harmless <= (len(STRANGE) if keys[0] == "metrics" else 4)

    @pytest.mark.parametrize(
        "key", [key for key in KEYS if key[-1] != "more" and key[0] != "dtypes"], ids=".".join
    )
    def test_a_key_that_is_missing(self, whole: Path, tmp_path: Path, key: tuple[str, ...]) -> None:
        document = tomllib.loads((whole / DESCRIPTION).read_text())
        table = document
        for part in key[:-1]:
            table = table[part]
        del table[key[-1]]
        folder = put(tmp_path / "m", (whole / WEIGHTS).read_bytes(), to_toml(document))
        if key[0] == "metrics" and len(key) == 2:
            assert nearfar.load(folder).details["metrics"] == {}
        else:
            assert key[-1] in refused(folder, DESCRIPTION)

    @settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_edit_of_the_text(self, whole: Path, tmp_path: Path, data: st.DataObject) -> None:
        text = (whole / DESCRIPTION).read_text()
        start = data.draw(st.integers(0, len(text)))
        end = data.draw(st.integers(start, min(len(text), start + 30)))
        piece = data.draw(
            st.text(max_size=8)
            | st.sampled_from(["[", "]", "[[model]]", "=", "1979-05-27", "'''", "{}", "\n"])
        )
        try:
            edited = (text[:start] + piece + text[end:]).encode()
        except UnicodeEncodeError:
            return
        folder = put(tmp_path / "m", (whole / WEIGHTS).read_bytes(), edited)
        with contextlib.suppress(CheckpointError):
            model = nearfar.load(folder)
            assert model.dim == 8
            assert isinstance(model.details["classes"], list)
            assert isinstance(model.details["metrics"], dict)
