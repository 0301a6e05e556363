"""Read a Wavefront OBJ model, with its materials and textures, out of a zip archive."""

import io
import posixpath
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int
from PIL import Image, UnidentifiedImageError

from packs.triangulate import triangulate

_texture_side = 256  # pixels: the pictures are small, so a larger texture would only alias
_crease = 0.7  # cosine of the angle between a face and its smoothed normal above which an edge stays sharp


@dataclass(frozen=True)
class Material:
    """Colour of a surface: plain, or a texture with alpha, values in [0, 1]."""

    color: tuple[float, float, float] = (0.8, 0.8, 0.8)
    shine: float = 0.0
    opacity: float = 1.0
    texture: Float[np.ndarray, "height width 4"] | None = None

    @property
    def see_through(self) -> bool:
        """Whether part of the light passes."""
        return self.opacity < 1.0 or (self.texture is not None and bool(self.texture[..., 3].min() < 1.0))


@dataclass(frozen=True)
class Mesh:
    """Triangles in a sphere of radius 1 around the origin, y up."""

    vertices: Float[np.ndarray, "vertex 3"]
    triangles: Int[np.ndarray, "triangle 3"]
    normals: Float[np.ndarray, "triangle 3 3"]
    texture_points: Float[np.ndarray, "triangle 3 2"]
    material_of: Int[np.ndarray, " triangle"]
    materials: tuple[Material, ...]


class Archive:
    """Files of a zip, found whatever the case of their name: model files were often made on Windows."""

    def __init__(self, path: str | Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self._names = {name.lower(): name for name in self._zip.namelist()}

    def find(self, *parts: str) -> str | None:
        """Name of the file at the joined path, or None."""
        path = posixpath.normpath(posixpath.join(*(part.replace("\\", "/") for part in parts)))
        return self._names.get(path.lower().lstrip("/"))

    def read(self, name: str) -> bytes:
        """Content of a file."""
        return self._zip.read(name)

    def text(self, name: str) -> str:
        """Content of a Latin-1 text file."""
        return self.read(name).decode("latin-1")


def read_mesh(archive: Archive, name: str) -> Mesh | None:
    """Read the OBJ file ``name``; None when no visible triangle is in it."""
    folder = posixpath.dirname(name)
    vertices: list[list[float]] = []
    points: list[list[float]] = [[0.0, 0.0]]  # row 0 stands for "no texture point"
    corners: list[tuple[int, int]] = []  # vertex and texture point
    faces: list[list[int]] = []  # rows of corners
    material_of: list[int] = []
    materials: list[Material] = [Material()]
    library: dict[str, Material] = {}
    number: dict[str, int] = {}
    current = 0
    for line in archive.text(name).splitlines():
        if line.startswith("v "):
            vertices.append([float(word) for word in line.split()[1:4]])
        elif line.startswith("vt "):
            points.append([float(word) for word in line.split()[1:3]])
        elif line.startswith("f "):
            words = line.split()[1:]
            faces.append(list(range(len(corners), len(corners) + len(words))))
            corners += [_corner(word, len(vertices), len(points)) for word in words]
            material_of.append(current)
        elif line.startswith("usemtl"):
            wanted = line[6:].strip()
            if wanted not in number:
                number[wanted] = len(materials)
                materials.append(library.get(wanted, Material()))
            current = number[wanted]
        elif line.startswith("mtllib"):
            library |= _read_library(archive, folder, line[6:].strip())
    if not faces:
        return None
    places = np.array(vertices, dtype=np.float64)
    indices = np.array(corners, dtype=np.int64)
    cut, face = triangulate(faces, places[indices[:, 0]])
    owner = np.array(material_of, dtype=np.int64)[face]
    visible = np.array([material.opacity > 0.05 for material in materials])[owner]
    if not visible.any():
        return None
    cut, owner = cut[visible], owner[visible]
    triangles = indices[cut, 0]
    centred = _fit(places, triangles)
    return Mesh(
        vertices=centred,
        triangles=triangles,
        normals=_smooth_normals(centred, triangles),
        texture_points=np.array(points, dtype=np.float64)[indices[cut, 1]],
        material_of=owner,
        materials=tuple(materials),
    )


def _corner(word: str, vertices: int, points: int) -> tuple[int, int]:
    """Vertex and texture point of a face corner: ``7``, ``7/3``, ``7//2`` or ``-1/-1``, counted from 1."""
    parts = word.split("/")
    vertex = int(parts[0])
    point = int(parts[1]) if len(parts) > 1 and parts[1] else 0
    return (vertex - 1 if vertex > 0 else vertices + vertex), (point if point >= 0 else points + point)


def _fit(vertices: Float[np.ndarray, "vertex 3"], triangles: Int[np.ndarray, "triangle 3"]) -> np.ndarray:
    """Move and scale the used vertices into the unit sphere."""
    used = vertices[triangles.ravel()]
    low, high = used.min(axis=0), used.max(axis=0)
    size = high - low
    radius = np.sqrt(size[0] ** 2 + size[1] ** 2 + size[2] ** 2) / 2
    return (vertices - (low + high) / 2) / max(float(radius), 1e-9)


def _unit(vectors: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    # Written out, so that the sum has one order on every machine.
    length = np.sqrt(vectors[..., 0] ** 2 + vectors[..., 1] ** 2 + vectors[..., 2] ** 2)
    return vectors / np.maximum(length, 1e-12)[..., None]


def _smooth_normals(
    vertices: Float[np.ndarray, "vertex 3"], triangles: Int[np.ndarray, "triangle 3"]
) -> Float[np.ndarray, "triangle 3 3"]:
    """Area-weighted mean of the faces around each corner; sharp edges keep the normal of their face."""
    first, second, third = (vertices[triangles[:, corner]] for corner in range(3))
    along, across = second - first, third - first
    area = np.stack(
        [
            along[:, 1] * across[:, 2] - along[:, 2] * across[:, 1],
            along[:, 2] * across[:, 0] - along[:, 0] * across[:, 2],
            along[:, 0] * across[:, 1] - along[:, 1] * across[:, 0],
        ],
        axis=1,
    )
    flat = np.repeat(_unit(area)[:, None], 3, axis=1)
    place = np.unique(np.round(vertices * 1e6), axis=0, return_inverse=True)[1].reshape(-1)[triangles]
    total = np.stack(
        [np.bincount(place.ravel(), weights=np.repeat(area[:, axis], 3)) for axis in range(3)], axis=1
    )
    smooth = _unit(total[place])
    agreement = flat[..., 0] * smooth[..., 0] + flat[..., 1] * smooth[..., 1] + flat[..., 2] * smooth[..., 2]
    return np.where((agreement > _crease)[..., None], smooth, flat)


def _read_library(archive: Archive, folder: str, name: str) -> dict[str, Material]:
    """Materials of an MTL file; none when the archive lacks it, as some do."""
    found = archive.find(folder, name)
    materials: dict[str, Material] = {}
    current = ""
    for line in archive.text(found).splitlines() if found else ():
        words = line.split()
        if not words:
            continue
        if words[0] == "newmtl":
            current = " ".join(words[1:])
            materials[current] = Material()
        elif current and words[0] == "Kd":
            red, green, blue = _numbers(words[1:4])
            materials[current] = replace(materials[current], color=(red, green, blue))
        elif current and words[0] == "Ks":
            materials[current] = replace(materials[current], shine=max(_numbers(words[1:4])))
        elif current and words[0] == "d":
            materials[current] = replace(materials[current], opacity=float(words[-1]))
        elif current and words[0] == "map_Kd":
            picture = archive.find(folder, words[-1])
            materials[current] = replace(materials[current], texture=_read_texture(archive, picture))
    return materials


def _numbers(words: Iterable[str]) -> list[float]:
    return [float(word) for word in words]


def _read_texture(archive: Archive, name: str | None) -> Float[np.ndarray, "height width 4"] | None:
    """A texture, at most 256 pixels a side; None when it is missing or unreadable (the colour serves)."""
    if name is None:
        return None
    try:
        picture = Image.open(io.BytesIO(archive.read(name))).convert("RGBA")
    except UnidentifiedImageError:
        return None
    picture.thumbnail((_texture_side, _texture_side), Image.Resampling.BOX)
    return np.asarray(picture, dtype=np.float64) / 255
