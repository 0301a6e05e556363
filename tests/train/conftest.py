"""What the training tests share: a folder of small pictures and a configuration that trains on it in a second."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nearfar.config import Config

SMALL = [
    "model.backbone=nearfar/small",
    "model.size=32",
    "model.dim=16",
    "batch.classes_per_batch=3",
    "batch.images_per_class=2",
    "optimizer.lr=0.003",
    "train.epochs=2",
    "train.precision=float32",
    "train.device=cpu",
    "data.workers=0",
]


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve classes of seven pictures; six classes are for training, of which two are held out."""
    return paint_classes(tmp_path_factory.mktemp("pictures"), classes=12, images=7)


@pytest.fixture(scope="session")
def config(pictures: Path) -> Config:
    """Trains for 2 epochs of 6 steps."""
    return Config.load(str(pictures), SMALL)


def paint_classes(folder: Path, *, classes: int, images: int, side: int = 36) -> Path:
    """Write ``folder/class00/0.png`` and so on: classes differ by colour, images by place and noise."""
    random = np.random.default_rng(0)
    for label in range(classes):
        (folder / f"class{label:02}").mkdir(parents=True)
        colour = random.integers(0, 256, 3)
        for number in range(images):
            pixels = random.integers(0, 60, (side, side, 3))
            top, left = random.integers(0, side // 2, 2)
            pixels[top : top + side // 2, left : left + side // 2] += colour * 3 // 4
            file = folder / f"class{label:02}" / f"{number}.png"
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file)
    return folder
