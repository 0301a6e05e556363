"""What the data tests share: folders of small pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

Paint = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> Paint:
    """Write a picture of one colour and a little texture: ``paint("cats/a.png", colour=(200, 0, 0))``."""

    def write(
        name: str, colour: tuple[int, int, int] = (120, 60, 30), size: tuple[int, int] = (24, 20)
    ) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = size
        pixels = np.broadcast_to(np.array(colour, dtype=np.uint8), (height, width, 3)).copy()
        pixels[::4] //= 2
        Image.fromarray(pixels).save(path)
        return path

    return write


@pytest.fixture
def folder(paint: Paint, tmp_path: Path) -> Path:
    """Three classes with 3, 2 and 4 images."""
    for name, count in {"cats": 3, "dogs": 2, "owls": 4}.items():
        for number in range(count):
            paint(f"set/{name}/{number}.png", colour=(40 * number, 80, 90))
    return tmp_path / "set"
