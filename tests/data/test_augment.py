"""Random changes: each against a plain definition, and the same from the same generator."""

import math

import pytest
import torch
from torch.nn.functional import affine_grid

from nearfar.data import Augment, Preprocess
from nearfar.data.augment import places, soften
from nearfar.errors import ConfigError

everything = {
    "rotate": 20.0,
    "translate": 0.1,
    "brightness": 0.3,
    "contrast": 0.3,
    "saturation": 0.3,
    "gray": 0.3,
    "blur": 0.5,
    "erase": 0.5,
}
still = {"scale": (1.0, 1.0), "ratio": (1.0, 1.0), "flip": False}


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def pictures(count: int = 32, side: int = 24) -> torch.Tensor:
    return torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8, generator=generator(7))


def test_none_is_the_centre_crop_of_evaluation() -> None:
    images = pictures(4, 24)
    torch.testing.assert_close(
        Augment.none(20)(images, generator()), Preprocess(20, 24).center(images), rtol=0, atol=0
    )


@pytest.mark.parametrize("padding", ["border", "reflection"])
def test_shape_range_and_input_unchanged(padding: str) -> None:
    images = pictures()
    before = images.clone()
    changed = Augment(20, padding=padding, **everything)(images, generator())
    assert changed.shape == (32, 3, 20, 20)
    assert changed.dtype == torch.float32
    assert changed.min() >= 0
    assert changed.max() <= 1
    assert changed.isfinite().all()
    assert torch.equal(images, before)


def test_the_generator_decides_and_nothing_else() -> None:
    augment, images = Augment(20, **everything), pictures()
    state = torch.get_rng_state()
    first = augment(images, generator(1))
    torch.rand(5)
    assert torch.equal(first, augment(images, generator(1)))
    assert not torch.equal(first, augment(images, generator(2)))
    torch.set_rng_state(state)
    augment(images, generator(1))
    assert torch.equal(state, torch.get_rng_state())


def test_a_batch_is_its_images_one_by_one() -> None:
    augment, images = Augment(20, **everything), pictures(6)
    together, drawn = augment(images, generator()), generator()
    for number in range(6):
        # One image draws as much as it does within the batch.
        torch.testing.assert_close(augment(images[number : number + 1], drawn)[0], together[number])


def test_one_setting_leaves_the_draws_of_others() -> None:
    images = pictures()
    plain = Augment(24, scale=(0.5, 0.9))(images, generator())
    erased = Augment(24, scale=(0.5, 0.9), erase=1.0)(images, generator())
    same = (plain == erased).all(1)
    assert 0.7 < same.float().mean() < 0.98


def test_half_are_mirrored_exactly() -> None:
    images = pictures(200, 8)
    changed = Augment(8, **{**still, "flip": True})(images, generator()) * 255
    as_is = (changed - images).abs().amax((1, 2, 3)) < 0.01
    mirrored = (changed - images.flip(3)).abs().amax((1, 2, 3)) < 0.01
    assert (as_is ^ mirrored).all()
    assert 0.35 < mirrored.float().mean() < 0.65


def test_places_are_those_of_torch() -> None:
    affine = torch.randn(3, 2, 3, generator=generator())
    torch.testing.assert_close(places(affine, 9), affine_grid(affine, [3, 1, 9, 9], align_corners=False))


def test_crops_keep_the_asked_share_and_stay_inside() -> None:
    augment = Augment(8, scale=(0.2, 0.6), ratio=(0.8, 1.25), flip=False)
    affine = augment.affine(torch.rand(4000, 19, generator=generator()).unbind(1))
    width, height = affine[:, 0, 0], affine[:, 1, 1]
    area, ratio = width * height, width / height
    assert 0.2 <= area.min() < 0.21
    assert 0.59 < area.max() <= 0.6001
    assert ratio.min() > 0.799
    assert ratio.max() < 1.251
    assert (affine[:, 0, 2].abs() + width).max() <= 1.0001
    assert (affine[:, 1, 2].abs() + height).max() <= 1.0001


def test_turns_are_rotations_of_at_most_the_angle() -> None:
    affine = Augment(8, **still, rotate=30.0).affine(torch.rand(500, 19, generator=generator()).unbind(1))
    square = affine[:, :, :2]
    torch.testing.assert_close(square @ square.mT, torch.eye(2).expand(500, 2, 2), rtol=0, atol=1e-6)
    degrees = torch.rad2deg(torch.atan2(square[:, 1, 0], square[:, 0, 0]))
    assert -30 <= degrees.min() < -29
    assert 29 < degrees.max() <= 30


def test_a_shift_moves_by_the_share_of_the_side() -> None:
    draws = torch.full((1, 19), 0.5)
    draws[0, 3] = 1.0
    affine = Augment(8, **still, translate=0.25).affine(draws.unbind(1))
    torch.testing.assert_close(affine[0], torch.tensor([[1.0, 0, 0.5], [0, 1, 0]]))


def test_brightness_saturation_and_contrast_by_their_definitions() -> None:
    augment = Augment(8, brightness=0.4, contrast=0.5, saturation=0.6)
    images = torch.rand(5, 3, 8, 8, generator=generator()) * 0.4 + 0.2
    draws = torch.rand(5, 19, generator=generator(3))
    changed = augment.recolour(images, draws.unbind(1))
    for number in range(5):
        s = 1 + 0.6 * (2 * draws[number, 8] - 1)
        b = 1 + 0.4 * (2 * draws[number, 10] - 1)
        c = 1 + 0.5 * (2 * draws[number, 11] - 1)
        x = images[number].double() * b
        grey = 0.299 * x[0] + 0.587 * x[1] + 0.114 * x[2]
        x = s * x + (1 - s) * grey
        x = c * x + (1 - c) * grey.mean()
        torch.testing.assert_close(changed[number].double(), x.clamp(0, 1), rtol=0, atol=1e-6)


def test_gray_has_one_value_in_all_channels() -> None:
    changed = Augment(8, **still, gray=1.0)(pictures(3, 8), generator())
    torch.testing.assert_close(changed[:, 0], changed[:, 2])


def test_blur_of_a_point() -> None:
    point = torch.zeros(1, 3, 5, 5)
    point[0, :, 2, 2] = 1
    kernel = torch.tensor([0.25, 0.5, 0.25])
    torch.testing.assert_close(soften(point, torch.tensor([0.25]))[0, 0, 1:4, 1:4], kernel[:, None] * kernel)


def test_blur_keeps_what_is_even_and_the_share_of_images() -> None:
    even = torch.full((50, 3, 8, 8), 90, dtype=torch.uint8)
    torch.testing.assert_close(
        Augment(8, **still, blur=1.0)(even, generator()), torch.full((50, 3, 8, 8), 90 / 255)
    )
    images = pictures(200, 8)
    blurred = (
        (Augment(8, **still, blur=0.3)(images, generator()) != images.float() / 255).any(3).any(2).any(1)
    )
    assert 0.2 < blurred.float().mean() < 0.4


def test_erased_rectangles() -> None:
    images = pictures(300, 16)
    changed = Augment(16, **still, erase=0.5)(images, generator())
    before = images.float() / 255
    hit = (changed != before).any(1)
    share = hit.float().mean((1, 2))
    erased = share > 0
    assert 0.4 < erased.float().mean() < 0.6
    assert share.max() < 0.3
    for number in erased.nonzero()[:20, 0]:
        rows, columns = hit[number].any(1), hit[number].any(0)
        inside = changed[number][:, rows][:, :, columns]
        mean = before[number].mean((1, 2))
        torch.testing.assert_close(inside, mean[:, None, None].expand_as(inside))


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match=r"augment\.scale must be two shares"):
        Augment(8, scale=(0.5, 1.5))
    with pytest.raises(ConfigError, match=r"augment\.ratio must be two ratios"):
        Augment(8, ratio=(2.0, 0.5))
    with pytest.raises(ConfigError, match=r"augment\.gray must be between 0 and 1; got 3"):
        Augment(8, gray=3)
    with pytest.raises(ConfigError, match=r"augment\.padding must be"):
        Augment(8, padding="zeros")
    with pytest.raises(ConfigError, match="images are 8 px wide, smaller than size 16"):
        Augment(16)(pictures(1, 8), generator())


def test_a_hand_worked_crop() -> None:
    # A quarter of the area, in the top left corner: enlarged twice, so each pixel lies between two.
    image = torch.arange(16, dtype=torch.uint8).view(1, 1, 4, 4).expand(1, 3, 4, 4)
    augment = Augment(4, scale=(0.25, 0.25), ratio=(1.0, 1.0), flip=False)
    draws = torch.full((1, 19), 0.5)
    draws[0, 2] = draws[0, 4] = 0.0
    affine = augment.affine(draws.unbind(1))
    torch.testing.assert_close(affine[0], torch.tensor([[0.5, 0, -0.5], [0, 0.5, -0.5]]))
    sampled = torch.nn.functional.grid_sample(
        image.float(), places(affine, 4), padding_mode="border", align_corners=False
    )
    assert sampled[0, 0, 0].tolist() == [0.0, 0.25, 0.75, 1.25]
    assert math.isclose(sampled[0, 0, 1, 0], 1.0)
