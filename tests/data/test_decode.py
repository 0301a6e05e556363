"""Files are decoded by content, and one that cannot be says why."""

import contextlib
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.data import Images, Preprocess, UnreadableImage, decode, find_unreadable, read_table
from nearfar.data.decode import shallow_grey, try_to_decode
from nearfar.data.picture import Picture
from nearfar.errors import DataError

ramp = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def save(path: Path, image: Image.Image, **settings: object) -> Path:
    buffer = io.BytesIO()
    settings = {"format": Image.registered_extensions().get(path.suffix)} | settings
    image.save(buffer, **settings)
    path.write_bytes(buffer.getvalue())
    return path


def reason(path: Path) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(path)
    assert caught.value.path == str(path)
    assert str(path) in str(caught.value)
    return caught.value.reason


class TestContent:
    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
    def test_formats(self, tmp_path: Path, kind: str) -> None:
        path = save(tmp_path / "a.bin", Image.fromarray(ramp), format=kind, lossless=True)
        assert np.array_equal(np.asarray(decode(path)), ramp)

    def test_a_gif_named_jpg_gives_its_first_frame(self, tmp_path: Path) -> None:
        red, blue = (Image.new("RGB", (8, 6), colour) for colour in ("red", "blue"))
        path = save(tmp_path / "lamp.JPG", red, format="GIF", save_all=True, append_images=[blue])
        image = decode(path)
        assert (image.mode, image.size, image.getpixel((0, 0))) == ("RGB", (8, 6), (255, 0, 0))

    def test_grey_is_three_channels(self, tmp_path: Path) -> None:
        image = decode(save(tmp_path / "a", Image.fromarray(ramp[..., 0]), format="JPEG"))
        pixels = np.asarray(image)
        assert pixels.shape == (20, 30, 3)
        assert (pixels[..., 0] == pixels[..., 2]).all()

    def test_cmyk(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a", Image.new("CMYK", (4, 4), (0, 255, 255, 0)), format="JPEG")
        red = decode(path).getpixel((1, 1))
        assert red[0] > 240
        assert max(red[1:]) < 20


class TestTransparency:
    @pytest.mark.parametrize("mode", ["RGBA", "LA"])
    def test_on_white(self, tmp_path: Path, mode: str) -> None:
        pixels = np.zeros((2, 2, 4), dtype=np.uint8)
        pixels[0, 0, 3] = 255
        image = Image.fromarray(pixels, "RGBA").convert(mode)
        found = decode(save(tmp_path / "a", image, format="PNG"))
        assert found.getpixel((0, 0)) == (0, 0, 0)
        assert found.getpixel((1, 1)) == (255, 255, 255)

    def test_half_is_mixed(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a", Image.new("RGBA", (2, 2), (0, 0, 0, 128)), format="PNG")
        assert decode(path).getpixel((0, 0)) == (127, 127, 127)

    def test_palette(self, tmp_path: Path) -> None:
        image = Image.new("P", (4, 4), 1)
        image.putpalette([0, 0, 0, 250, 10, 10])
        image.putpixel((0, 0), 0)
        path = save(tmp_path / "a", image, format="PNG", transparency=bytes([0, 255]))
        assert decode(path).getpixel((0, 0)) == (255, 255, 255)
        assert decode(path).getpixel((2, 2)) == (250, 10, 10)


class TestDepth:
    def test_16_bit_grey(self, tmp_path: Path) -> None:
        values = np.array([[0, 257 * 7, 65535]], dtype=np.uint16)
        for kind in ("PNG", "TIFF"):
            image = decode(save(tmp_path / kind, Image.fromarray(values), format=kind))
            assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 7, 255]

    @pytest.mark.parametrize(("most", "expected"), [(1.0, 255), (200.0, 200)])
    def test_float(self, tmp_path: Path, most: float, expected: int) -> None:
        values = np.array([[0.0, most]], dtype=np.float32)
        image = decode(save(tmp_path / "a", Image.fromarray(values), format="TIFF"))
        assert [image.getpixel((x, 0))[0] for x in range(2)] == [0, expected]

    @pytest.mark.parametrize("strange", [1.001, 1.5, 3.0, 254.0, np.inf, -7.0, np.nan])
    def test_one_strange_float_leaves_the_others_as_they_are(self, tmp_path: Path, strange: float) -> None:
        grey = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)
        values = grey.copy()
        values[0, 0] = strange
        images = [decode(save(tmp_path / "a", Image.fromarray(v), format="TIFF")) for v in (grey, values)]
        plain, found = (np.asarray(image)[..., 0].astype(int) for image in images)
        assert np.array_equal(plain[1:], found[1:])
        assert plain.max() == 255

    @pytest.mark.parametrize("white", [1.0, 255.0, 65535.0])
    def test_floats_of_any_range(self, tmp_path: Path, white: float) -> None:
        grey = np.linspace(0, 1, 64, dtype=np.float32)[None].repeat(64, 0)
        image = decode(
            save(tmp_path / "a", Image.fromarray((grey * white).astype(np.float32)), format="TIFF")
        )
        assert np.array_equal(
            np.asarray(image)[..., 0], (grey.astype(np.float64) * 255 + 0.5).astype(np.uint8)
        )

    def test_a_mask_of_floats(self, tmp_path: Path) -> None:
        values = np.zeros((64, 64), np.float32)
        values[:2, :3] = 255
        image = decode(save(tmp_path / "a", Image.fromarray(values), format="TIFF"))
        assert np.array_equal(np.asarray(image)[..., 0], values.astype(np.uint8))

    @pytest.mark.parametrize(
        ("most", "told"), [(255, True), (1023, True), (4095, True), (4096, False), (65535, False)]
    )
    @pytest.mark.parametrize("kind", ["png", "tif"])
    def test_a_set_of_few_bits_in_16_is_told(
        self, tmp_path: Path, most: int, told: bool, kind: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        for name in ("a", "b"):
            (tmp_path / name).mkdir()
            grey = np.linspace(0, most if name == "b" else 200, 64).astype(np.uint16)[None].repeat(8, 0)
            save(tmp_path / name / f"1.{kind}", Image.fromarray(grey))
        Images(read_table(tmp_path), Preprocess(8))
        assert ("no value above" in caplog.text) is told
        if told:
            assert (
                f"the 2 pictures of 16-bit grey that were looked at have no value above {most:,}"
                in caplog.text
            )

    def test_of_ordinary_pictures_nothing_is_told(self, folder: Path) -> None:
        assert shallow_grey(read_table(folder)) is None


class TestLimits:
    @pytest.mark.parametrize("size", [(1, 500), (500, 1), (2, 401)])
    def test_a_picture_much_longer_than_wide(self, tmp_path: Path, size: tuple[int, int]) -> None:
        path = save(tmp_path / "a.png", Image.new("RGB", size))
        sentence = f"it has {size[0]:,} x {size[1]:,} pixels, so it is more than 200 times as long as wide"
        assert reason(path) == sentence
        assert try_to_decode(str(path)).reason == sentence
        with pytest.raises(DataError, match="more than 200 times as long as wide"):
            Preprocess(8).from_image(Image.new("RGB", size))

    def test_long_ones_within_the_limit(self, tmp_path: Path) -> None:
        assert decode(save(tmp_path / "a.png", Image.new("RGB", (2, 400)))).size == (2, 400)

    def test_a_large_jpeg_is_decoded_smaller_and_others_are_refused(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(sys.modules["nearfar.data.decode"], "MOST_PIXELS", 5_000)
        large = Image.new("RGB", (200, 160), (200, 30, 30))
        image = decode(save(tmp_path / "a.jpg", large))
        assert image.size == (50, 40)
        assert decode(tmp_path / "a.jpg", at_least=20).size == (25, 20)
        assert reason(save(tmp_path / "a.png", large)) == (
            "it has 200 x 160 pixels and at most 0 million are decoded; make it smaller"
        )
        huge = Image.new("RGB", (1600, 1600))
        assert "at most 0 million" in reason(save(tmp_path / "b.jpg", huge))

    def test_no_warning_of_pillow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
        assert decode(save(tmp_path / "a.png", Image.new("RGB", (200, 160)))).size == (200, 160)
        path = save(tmp_path / "b.png", Image.new("RGB", (400, 160)))
        assert reason(path) == "it has more than 0 million pixels"


class TestParts:
    def test_a_box(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a.png", Image.fromarray(ramp))
        assert np.array_equal(np.asarray(decode(Picture(str(path), (3, 2, 10, 8)))), ramp[2:8, 3:10])
        assert np.array_equal(np.asarray(decode(Picture(str(path), (-5, -5, 10, 800)))), ramp[:, :10])
        with pytest.raises(
            UnreadableImage, match=r"its box 40, 2, 50, 8 lies outside the picture of 30 x 20"
        ):
            decode(Picture(str(path), (40, 2, 50, 8)))

    def test_of_a_jpeg_decoded_small(self, tmp_path: Path) -> None:
        pixels = np.zeros((800, 1600, 3), np.uint8)
        pixels[:, 800:] = 255
        path = str(save(tmp_path / "a.jpg", Image.fromarray(pixels), quality=95))
        part = decode(Picture(path, (400, 0, 1200, 800)), at_least=100)
        assert part.size == (100, 100)
        columns = np.asarray(part)[..., 0].mean(0)
        assert columns[:48].max() < 20
        assert columns[52:].min() > 235

    def test_of_an_upright_picture(self, tmp_path: Path) -> None:
        exif = Image.Exif()
        exif[0x0112] = 6
        path = save(tmp_path / "a.png", Image.fromarray(np.rot90(ramp, 1).copy()), exif=exif.tobytes())
        assert np.array_equal(np.asarray(decode(Picture(str(path), (3, 2, 10, 8)))), ramp[2:8, 3:10])

    def test_bytes(self, tmp_path: Path) -> None:
        data = save(tmp_path / "a.png", Image.fromarray(ramp)).read_bytes()
        held = pickle.loads(pickle.dumps(Picture("t.parquet#2", None, data)))
        assert np.array_equal(np.asarray(decode(held)), ramp)
        assert try_to_decode(Picture("t.parquet#3", None, b"")).reason == "the file is empty"

    def test_parts_of_one_file_are_told_apart(self) -> None:
        one, other = Picture("a.png", (0, 0, 1, 1)), Picture("a.png", (0, 0, 2, 2))
        assert one != other
        assert len({one, other, Picture("a.png", (0, 0, 1, 1))}) == 2
        assert one == "a.png" == str(other)
        assert type(str(one)) is str


class TestUpright:
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_every_orientation(self, tmp_path: Path, orientation: int) -> None:
        upright = np.zeros((4, 6, 3), dtype=np.uint8)
        upright[0, :, 0] = 250
        upright[:, 0, 1] = 250
        # How a camera stores the picture that the tag then undoes.
        stored = {
            1: upright,
            2: upright[:, ::-1],
            3: upright[::-1, ::-1],
            4: upright[::-1],
            5: upright.transpose(1, 0, 2),
            6: np.rot90(upright, 1),
            7: upright[::-1, ::-1].transpose(1, 0, 2),
            8: np.rot90(upright, -1),
        }[orientation]
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = save(
            tmp_path / "a", Image.fromarray(np.ascontiguousarray(stored)), format="PNG", exif=exif.tobytes()
        )
        assert np.array_equal(np.asarray(decode(path)), upright)

    def test_damaged_exif_does_not_matter(self, tmp_path: Path) -> None:
        path = save(tmp_path / "a", Image.fromarray(ramp), format="PNG", exif=b"Exif\x00\x00broken")
        assert np.array_equal(np.asarray(decode(path)), ramp)


class TestUnreadable:
    def test_text_named_png(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").write_text("hello")
        assert "not an image of a known format" in reason(tmp_path / "a.png")

    def test_truncated_jpeg(self, tmp_path: Path) -> None:
        noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
        path = save(tmp_path / "a.jpg", Image.fromarray(noise), format="JPEG")
        path.write_bytes(path.read_bytes()[:-600])
        assert "truncated" in reason(path)
        with pytest.raises(UnreadableImage, match="truncated"):
            decode(path, at_least=16)

    def test_empty_missing_and_a_folder(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        assert reason(tmp_path / "a.png") == "the file is empty"
        assert reason(tmp_path / "b.png") == "no such file"
        assert "folder" in reason(tmp_path)

    @pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG"])
    def test_any_damage_is_reported_as_such(self, tmp_path: Path, kind: str) -> None:
        whole = save(tmp_path / "a", Image.fromarray(ramp), format=kind).read_bytes()
        random = np.random.default_rng(1)
        for _ in range(40):
            damaged = bytearray(whole)
            for place in random.integers(0, len(whole), 6):
                damaged[place] = random.integers(256)
            (tmp_path / "b").write_bytes(bytes(damaged[: random.integers(1, len(whole))]))
            with contextlib.suppress(UnreadableImage):
                assert decode(tmp_path / "b").mode == "RGB"

    def test_it_can_be_sent_between_processes(self) -> None:
        error = pickle.loads(pickle.dumps(UnreadableImage("a.png", "no such file")))
        assert (error.path, error.reason) == ("a.png", "no such file")


def test_a_large_jpeg_is_decoded_small(tmp_path: Path) -> None:
    picture = Image.linear_gradient("L").resize((1600, 1200))
    path = save(tmp_path / "a.jpg", picture, format="JPEG")
    small = decode(path, at_least=100)
    assert small.size == (200, 150)
    assert decode(path).size == (1600, 1200)


def test_find_unreadable_lists_all_in_order(folder: Path) -> None:
    broken = [folder / "cats" / "1.png", folder / "owls" / "0.png"]
    for path in broken:
        path.write_text("no image")
    seen = []
    found = find_unreadable(read_table(folder), progress=lambda done, total: seen.append((done, total)))
    assert [problem.path for problem in found] == [str(path) for path in broken]
    assert seen == [(done, 9) for done in range(1, 10)]
