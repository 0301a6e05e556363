"""The packs `furniture` and `furniture-hard`: 820 three-dimensional models of things of the house.

`furniture` shows each alone on grey, as a catalogue does. `furniture-hard` shows it on clutter, in coloured
light, small or large, off the middle: its classes cannot be told by their pixels.
"""

import math
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import Float

from nearfar.data.packs.registry import Pack, Progress, describe
from nearfar.errors import DataError
from packs import sweethome
from packs.mesh import Mesh
from packs.objects import draw
from packs.render import View, encode, render, samples_per_side

_root = Path(__file__).parents[1]
views = {"furniture": 12, "furniture-hard": 6}


def build(pack: Pack, folder: Path, progress: Progress | None) -> list[str]:
    """Draw every model of every library, in as many processes as there are cores, four at most.

    Returns:
        The credits, a line each.
    """
    libraries = sweethome.libraries_in(sweethome.folder(pack.name))
    parts = min(4, os.cpu_count() or 1)
    with _workers(pack, folder, parts) as workers:
        for done, name in enumerate(_lines(workers), start=1):
            if progress is not None:
                progress(done, pack.classes, name)
    return sweethome.credits(libraries)


def draw_part(pack: Pack, folder: Path, part: int, parts: int) -> Iterator[str]:
    """Draw every ``parts``-th model, beginning with the one numbered ``part``; yield each class when done."""
    libraries = sweethome.libraries_in(sweethome.folder(pack.name))
    names = sweethome.class_names(libraries)
    mine = {model for place, model in enumerate(names) if place % parts == part}
    for library in libraries:
        for model, mesh in sweethome.models(library, mine):
            name = f"{sweethome.slug(model.category)}--{names[model]}"
            paint = clutter if pack.name == "furniture-hard" else draw
            pictures = paint(mesh, model.seed, views=views[pack.name], size=pack.size)
            (folder / name).mkdir()
            for number, picture in enumerate(pictures):
                (folder / name / f"view-{number:02d}.png").write_bytes(picture)
            yield name


def clutter(mesh: Mesh, seed: int, *, views: int, size: int) -> list[bytes]:
    """Views of a model that share no background, light or scale."""
    random = np.random.default_rng([seed, 1])
    pictures = []
    for number in range(views):
        zoom = random.uniform(0.45, 0.9)
        room = (1 - zoom) / 2  # the object may stand anywhere in the picture, but whole
        tint = random.uniform(0.65, 1.15, 3)
        view = View(
            azimuth=2 * math.pi * (number + random.random()) / views,
            elevation=math.radians(random.uniform(0, 60)),
            zoom=zoom,
            light=(random.uniform(-1.2, 1.2), 1.0, 0.8),
            exposure=random.uniform(0.8, 1.15),
            tint=(float(tint[0]), float(tint[1]), float(tint[2])),
            shift=(random.uniform(-room, room), random.uniform(-room, room)),
        )
        background = litter(random, size * samples_per_side)
        pictures.append(encode(render(mesh, view, background, size)))
    return pictures


def litter(random: np.random.Generator, side: int) -> Float[np.ndarray, "side side 3"]:
    """A gradient of two colours behind boxes and discs that can be seen through."""
    down, right = np.mgrid[0:side, 0:side] / side
    angle = random.uniform(0, 2 * math.pi)
    along = right * math.cos(angle) + down * math.sin(angle)
    along = np.clip((along - along.min()) / (along.max() - along.min()), 0, 1)[..., None]
    scene = random.random(3) * (1 - along) + random.random(3) * along
    for _ in range(random.integers(4, 10)):
        x, y = right - random.random(), down - random.random()
        turn = random.uniform(0, math.pi)
        u, v = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
        wide, high = random.uniform(0.04, 0.3, 2)
        disc = random.random() < 0.4
        inside = (u / wide) ** 2 + (v / high) ** 2 < 1 if disc else (np.abs(u) < wide) & (np.abs(v) < high)
        shade = random.uniform(0.35, 0.9)
        scene[inside] = scene[inside] * (1 - shade) + random.random(3) * shade
    return scene


@contextmanager
def _workers(pack: Pack, folder: Path, parts: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Separate programs, so that none runs the script of the caller again; none outlives the block."""
    path = os.pathsep.join([str(_root), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, "-P", "-m", "packs.furniture", pack.name, str(folder)]
    with tempfile.TemporaryFile("w+") as complaints:
        workers: list[subprocess.Popen[str]] = []
        try:
            for part in range(parts):
                worker = subprocess.Popen(
                    [*command, str(part), str(parts)],
                    stdout=subprocess.PIPE,
                    stderr=complaints,
                    text=True,
                    env=environment,
                )
                workers.append(worker)
            yield workers
            failed = [worker for worker in workers if worker.wait()]
            if failed:
                complaints.seek(0)
                last = (complaints.read().strip().splitlines() or ["no reason given"])[-1]
                raise DataError(f"drawing the pack {pack.name!r} failed: {last}")
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()


def _lines(workers: list[subprocess.Popen[str]]) -> Iterator[str]:
    """Lines of the workers as they come, one of each in turn until all are silent."""
    open_ones = [worker.stdout for worker in workers if worker.stdout is not None]
    while open_ones:
        for stream in list(open_ones):
            line = stream.readline()
            if line:
                yield line.strip()
            else:
                open_ones.remove(stream)
                stream.close()


if __name__ == "__main__":
    for finished in draw_part(describe(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])):
        print(finished, flush=True)
