"""The pictures of the pack `objects`, which ship inside nearfar.

`python -m packs.objects OUT.zip` at the root of the repository makes the shipped file again, from the Debian
package.
"""

import math
import sys
import zipfile
from pathlib import Path

import numpy as np

from nearfar.data.packs.registry import Progress, describe
from packs import sweethome
from packs.mesh import Mesh
from packs.render import View, encode, render

_library = "BlendSwap-CC-0"
_views = 8


def draw(mesh: Mesh, seed: int, *, views: int, size: int) -> list[bytes]:
    """Plain views of a model: all around it, from a little above, on light grey, under a lamp that moves."""
    random = np.random.default_rng(seed)
    pictures = []
    for number in range(views):
        view = View(
            azimuth=2 * math.pi * (number + random.random()) / views,
            elevation=math.radians(random.uniform(5, 45)),
            zoom=random.uniform(0.75, 0.95),
            light=(random.uniform(-0.7, 0.7), 1.0, 0.8),
            exposure=random.uniform(0.92, 1.08),
        )
        pictures.append(encode(render(mesh, view, float(random.uniform(0.82, 1.0)), size)))
    return pictures


def make(target: Path, progress: Progress | None = None) -> None:
    """Draw all pictures and write the file that ships: the same bytes whenever and wherever it is made."""
    pack = describe("objects")
    library = sweethome.folder(pack.name) / f"{_library}.sh3f"
    names = sweethome.class_names([library])
    draft = target.with_name(f"{target.name}.tmp")
    with zipfile.ZipFile(draft, "w") as archive:
        for done, (model, mesh) in enumerate(sweethome.models(library, names), start=1):
            name = names[model]
            for number, picture in enumerate(draw(mesh, model.seed, views=_views, size=pack.size)):
                _add(archive, f"{name}/view-{number}.png", picture)
            if progress is not None:
                progress(done, pack.classes, name)
        _add(archive, "CREDITS.txt", "\n".join(sweethome.credits([library])).encode("utf-8"))
    draft.replace(target)


def _add(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A fixed date, and no compression: PNG is compressed already.
    archive.writestr(zipfile.ZipInfo(name, date_time=(2020, 1, 1, 0, 0, 0)), content)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m packs.objects OUT.zip")
    make(Path(sys.argv[1]), lambda done, total, name: print(f"{done}/{total} {name}", flush=True))
