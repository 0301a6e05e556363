"""Files are decoded by content, and one that cannot be says why."""

import contextlib
import io
import pickle
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.data import UnreadableImage, decode, find_unreadable, read_table

ramp = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)


def save(path: Path, image: Image.Image, **settings: object) -> Path:
    buffer = io.BytesIO()
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
        assert "directory" in reason(tmp_path)

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
