"""From files to squares."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nearfar.config import Config
from nearfar.data import Preprocess
from nearfar.errors import ConfigError
from nearfar.models import Embedder


@pytest.fixture
def wide(tmp_path: Path) -> Path:
    """Three vertical bands, red, green and blue, each 40 x 40."""
    pixels = np.zeros((40, 120, 3), dtype=np.uint8)
    for band in range(3):
        pixels[:, 40 * band : 40 * band + 40, band] = 255
    Image.fromarray(pixels).save(tmp_path / "wide.png")
    return tmp_path / "wide.png"


def test_crop_keeps_the_middle(wide: Path) -> None:
    image = Preprocess(16, 20).load(wide)
    assert image.dtype == torch.uint8
    assert image.shape == (3, 20, 20)
    assert (image[1, :, 2:-2] == 255).all()


def test_squash_keeps_all(wide: Path) -> None:
    image = Preprocess(16, 18, fit="squash").load(wide)
    assert image.shape == (3, 18, 18)
    assert [int(image[:, 9, column].argmax()) for column in (1, 9, 16)] == [0, 1, 2]


def test_a_square_of_the_size_is_not_touched(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 255, (12, 12, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert np.array_equal(Preprocess(12).load(tmp_path / "a.png").permute(1, 2, 0).numpy(), pixels)


def test_a_smaller_image_is_enlarged(tmp_path: Path) -> None:
    Image.new("RGB", (5, 3), (9, 99, 199)).save(tmp_path / "a.png")
    image = Preprocess(16, interpolation="bicubic").load(tmp_path / "a.png")
    assert (image == torch.tensor([9, 99, 199])[:, None, None]).all()


def test_center_is_the_middle_in_0_to_1() -> None:
    images = torch.arange(2 * 3 * 6 * 6, dtype=torch.uint8).view(2, 3, 6, 6)
    centre = Preprocess(4, 6).center(images)
    torch.testing.assert_close(centre, images[..., 1:5, 1:5].float() / 255)
    assert centre.dtype == torch.float32


def test_center_of_images_too_small() -> None:
    with pytest.raises(ConfigError, match="images are 3 x 9, smaller than size 4"):
        Preprocess(4).center(torch.zeros(1, 3, 3, 9, dtype=torch.uint8))


def test_a_dictionary_and_back() -> None:
    preprocess = Preprocess(32, 36, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bicubic", "squash")
    assert Preprocess.from_dict(preprocess.to_dict()) == preprocess


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"size": 32, "resize": 30}, "resize must be at least size; got size=32, resize=30"),
        ({"size": 0}, "resize must be at least size"),
        ({"size": 8, "std": (0.1, 0.0, 0.1)}, "std above 0"),
        ({"size": 8, "interpolation": "cubic"}, "'bilinear' or 'bicubic'; got 'cubic'"),
        ({"size": 8, "fit": "stretch"}, "'crop', 'squash' or 'pad'; got 'stretch'"),
    ],
)
def test_settings_that_make_no_sense(settings: dict, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Preprocess(**settings)


class TestPad:
    @pytest.mark.parametrize("size", [(40, 20), (20, 40), (7, 30), (24, 24)])
    @pytest.mark.parametrize("resize", [0, 20])
    def test_the_whole_picture_is_in_the_square(self, size: tuple[int, int], resize: int) -> None:
        preprocess = Preprocess(16, resize, mean=(0.2, 0.4, 0.6), fit="pad")
        square = preprocess.from_image(Image.new("RGB", size, (255, 255, 255)))
        assert square.shape == (3, preprocess.resize, preprocess.resize)
        white = (square == 255).all(0)
        height, width = int(white.any(1).sum()), int(white.any(0).sum())
        assert (width, height) == tuple(round(side * 16 / max(size)) for side in size)
        if width != height:
            corner = square[:, 0, 0] if resize == 0 else square[:, 2, 2]
            assert corner.tolist() == [51, 102, 153]
        seen = preprocess.center(square[None])[0]
        assert int((seen == 1).all(0).sum()) == width * height

    def test_pictures_that_a_cut_makes_equal_stay_apart(self) -> None:
        wide, wider = (Image.new("RGB", (width, 10), (9, 9, 9)) for width in (20, 40))
        for fit, equal in (("crop", True), ("pad", False)):
            preprocess = Preprocess(8, fit=fit)
            assert torch.equal(preprocess.from_image(wide), preprocess.from_image(wider)) is equal

    def test_a_model_is_made_saved_and_loaded_with_it(self, tmp_path: Path) -> None:
        model = Embedder("nearfar/small", pretrained=False, size=16, dim=4, fit="pad")
        assert model.preprocess.fit == "pad"
        assert Embedder.load(model.save(tmp_path / "m")).preprocess == model.preprocess
        assert Config.load("objects", ["model.fit=pad"]).model.fit == "pad"
