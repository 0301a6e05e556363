"""Draw a mesh as a small picture: exact triangles with a depth buffer, 16 samples a pixel, plain numpy.

Coordinates are float64 and sums are written out, so that the same model gives the same picture whatever the
machine. Glass is drawn by an ordered pattern over the samples of a pixel, which averages to its opacity.
"""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int
from PIL import Image

from packs.mesh import Material, Mesh

samples_per_side = 4
_camera_distance = 3.2
_depth_steps = 2**17  # surfaces nearer to each other than this part of the depth range count as one
_candidates_at_once = 2**17
# Bayer's matrix: every prefix of the order 0..15 is spread evenly over the 4 x 4 samples of a pixel.
_pattern = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]])


@dataclass(frozen=True)
class View:
    """Where the camera and the light stand, in radians and parts of the picture."""

    azimuth: float
    elevation: float
    zoom: float  # part of the picture that the larger side of the object fills
    light: tuple[float, float, float] = (0.3, 1.0, 0.8)  # towards the light: right, up, towards the camera
    exposure: float = 1.0
    tint: tuple[float, float, float] = (1.0, 1.0, 1.0)
    shift: tuple[float, float] = (0.0, 0.0)  # of the object, in parts of the picture


def render(
    mesh: Mesh, view: View, background: Float[np.ndarray, "height width 3"] | float, size: int
) -> Image.Image:
    """Draw ``mesh`` on ``background``, a grey or the colours of ``size * 4`` samples a side, as RGB."""
    side = size * samples_per_side
    x, y, nearness = _project(mesh, view, side)
    winner = _visible(mesh, x, y, nearness, side)
    canvas = np.empty((side * side, 3))
    canvas[:] = background if isinstance(background, float) else background.reshape(-1, 3)
    hit = np.flatnonzero(winner >= 0)
    if len(hit):
        triangle = winner[hit]
        weights = _weights(x[triangle], y[triangle], nearness[triangle], hit % side, hit // side)
        canvas[hit] = _shade(mesh, view, triangle, weights)
    grid = np.clip(canvas, 0, 1).reshape(size, samples_per_side, size, samples_per_side, 3)
    total = np.zeros((size, size, 3))
    for row in range(samples_per_side):
        for column in range(samples_per_side):
            total += grid[:, row, :, column]
    return Image.fromarray(np.round(total * (255 / samples_per_side**2)).astype(np.uint8), "RGB")


def encode(picture: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    written = io.BytesIO()
    picture.save(written, "PNG", optimize=True)
    return written.getvalue()


def _axes(view: View) -> tuple[tuple[float, float, float], ...]:
    """Right, up and towards the camera, as directions of the model."""
    ca, sa = math.cos(view.azimuth), math.sin(view.azimuth)
    ce, se = math.cos(view.elevation), math.sin(view.elevation)
    return (ca, 0.0, -sa), (-sa * se, ce, -ca * se), (sa * ce, se, ca * ce)


def _project(
    mesh: Mesh, view: View, side: int
) -> tuple[Float[np.ndarray, "triangle 3"], Float[np.ndarray, "triangle 3"], Float[np.ndarray, "triangle 3"]]:
    """Picture coordinates, in samples, and nearness (1 / depth) of each corner, fitted to the frame."""
    points = mesh.vertices
    right, up, near = (
        points[:, 0] * axis[0] + points[:, 1] * axis[1] + points[:, 2] * axis[2] for axis in _axes(view)
    )
    nearness = 1 / (_camera_distance - near)
    x, y = right * nearness, -up * nearness
    used = np.unique(mesh.triangles)
    left, top, span = x[used].min(), y[used].min(), 1e-9
    width, height = x[used].max() - left, y[used].max() - top
    scale = view.zoom * side / max(width, height, span)
    x = (x - left - width / 2) * scale + side * (0.5 + view.shift[0])
    y = (y - top - height / 2) * scale + side * (0.5 + view.shift[1])
    return x[mesh.triangles], y[mesh.triangles], nearness[mesh.triangles]


def _visible(
    mesh: Mesh,
    x: Float[np.ndarray, "triangle 3"],
    y: Float[np.ndarray, "triangle 3"],
    nearness: Float[np.ndarray, "triangle 3"],
    side: int,
) -> Int[np.ndarray, " sample"]:
    """Number of the triangle seen at each sample, -1 where there is none."""
    never = np.iinfo(np.int64).max
    buffer = np.full(side * side, never)
    clear = np.array([material.see_through for material in mesh.materials])[mesh.material_of]
    low, high = nearness.min(), nearness.max()
    for triangle, column, row in _covered(x, y, side):
        kept = _opaque_here(mesh, clear, triangle, column, row, (x, y, nearness))
        triangle, column, row = triangle[kept], column[kept], row[kept]  # noqa: PLW2901
        corner = nearness[triangle]
        weights = _edges(x[triangle], y[triangle], column, row)
        depth = weights[0] * corner[:, 0] + weights[1] * corner[:, 1] + weights[2] * corner[:, 2]
        order = np.round((high - depth) * (_depth_steps / max(high - low, 1e-9))).astype(np.int64)
        np.minimum.at(buffer, row * side + column, (order << 32) | triangle)
    return np.where(buffer == never, -1, buffer & 0xFFFFFFFF)


def _covered(
    x: Float[np.ndarray, "triangle 3"], y: Float[np.ndarray, "triangle 3"], side: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Triangles with the columns and rows of the samples that they cover, in pieces that fit a cache."""
    left, wide = _span(x, side)
    top, high = _span(y, side)
    ax, ay = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]
    bx, by = x[:, 2] - x[:, 0], y[:, 2] - y[:, 0]
    area = ax * by - bx * ay  # twice the area: a triangle seen from its edge covers nothing
    use = np.flatnonzero((wide > 0) & (high > 0) & (np.abs(area) > 1e-6))
    left, top, wide, high, area = left[use], top[use], wide[use], high[use], area[use]
    ax, ay, bx, by = ax[use] / area, ay[use] / area, bx[use] / area, by[use] / area
    dx, dy = left + 0.5 - x[use, 0], top + 0.5 - y[use, 0]
    # Weights of the second and third corner at the first sample of the box; they change evenly from there.
    second, third = dx * by - bx * dy, ax * dy - dx * ay
    ends = np.cumsum(wide * high)
    start = 0
    while start < len(use):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _candidates_at_once)))
        part = slice(start, stop)
        count = wide[part] * high[part]
        place = np.arange(int(count.sum())) - np.repeat(np.cumsum(count) - count, count)
        row, column = np.divmod(place, np.repeat(wide[part], count))
        two, three = (
            np.repeat(value[part], count)
            + column * np.repeat(right[part], count)
            + row * np.repeat(down[part], count)
            for value, right, down in ((second, by, -bx), (third, -ay, ax))
        )
        inside = np.flatnonzero((two >= 0) & (three >= 0) & (two + three <= 1))
        owner = np.repeat(np.arange(start, stop), count)[inside]
        yield use[owner], left[owner] + column[inside], top[owner] + row[inside]
        start = stop


def _span(
    places: Float[np.ndarray, "triangle 3"], side: int
) -> tuple[Int[np.ndarray, " triangle"], Int[np.ndarray, " triangle"]]:
    """First sample, and number of samples, whose centres lie between the corners along one axis."""
    first = np.clip(np.ceil(places.min(axis=1) - 0.5), 0, side).astype(np.int64)
    last = np.clip(np.floor(places.max(axis=1) - 0.5), -1, side - 1).astype(np.int64)
    return first, last - first + 1


def _edges(
    x: Float[np.ndarray, "n 3"],
    y: Float[np.ndarray, "n 3"],
    column: Int[np.ndarray, " n"],
    row: Int[np.ndarray, " n"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Barycentric weights of the sample centres in their triangles: all three ≥ 0 inside."""
    dx, dy = column + 0.5 - x[:, 0], row + 0.5 - y[:, 0]
    ax, ay = x[:, 1] - x[:, 0], y[:, 1] - y[:, 0]
    bx, by = x[:, 2] - x[:, 0], y[:, 2] - y[:, 0]
    area = ax * by - bx * ay
    second = (dx * by - bx * dy) / area
    third = (ax * dy - dx * ay) / area
    return 1 - second - third, second, third


def _weights(
    x: Float[np.ndarray, "n 3"],
    y: Float[np.ndarray, "n 3"],
    nearness: Float[np.ndarray, "n 3"],
    column: Int[np.ndarray, " n"],
    row: Int[np.ndarray, " n"],
) -> Float[np.ndarray, "n 3"]:
    """Weights of the corners on the surface itself: those of the picture, corrected for perspective."""
    flat = np.stack(_edges(x, y, column, row), axis=1) * nearness
    return flat / (flat[:, 0] + flat[:, 1] + flat[:, 2])[:, None]


def _opaque_here(
    mesh: Mesh,
    clear: Bool[np.ndarray, " triangle"],
    triangle: Int[np.ndarray, " n"],
    column: Int[np.ndarray, " n"],
    row: Int[np.ndarray, " n"],
    corners: tuple[np.ndarray, np.ndarray, np.ndarray],
) -> Bool[np.ndarray, " n"]:
    """Which samples a see-through surface stops: as many of the 16 of a pixel as it is opaque."""
    kept = np.ones(len(triangle), dtype=bool)
    ask = np.flatnonzero(clear[triangle])
    if not len(ask):
        return kept
    triangle, column, row = triangle[ask], column[ask], row[ask]
    x, y, nearness = (corner[triangle] for corner in corners)
    opacity = _color(mesh, triangle, _weights(x, y, nearness, column, row))[:, 3]
    # Another pattern for each material: two panes one behind the other stop more than one pane.
    turn = mesh.material_of[triangle] * 7
    threshold = (_pattern[row % 4, column % 4] * 5 + turn) % 16
    kept[ask] = opacity * 16 > threshold + 0.5
    return kept


def _color(
    mesh: Mesh, triangle: Int[np.ndarray, " n"], weights: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 4"]:
    """Red, green, blue and opacity of surface points."""
    color = np.empty((len(triangle), 4))
    owner = mesh.material_of[triangle]
    for number in np.unique(owner):
        rows = np.flatnonzero(owner == number)
        material: Material = mesh.materials[number]
        if material.texture is None:
            color[rows] = (*material.color, material.opacity)
            continue
        height, width = material.texture.shape[:2]
        points = mesh.texture_points[triangle[rows]]
        u, v = (sum(weights[rows, k] * points[:, k, axis] for k in range(3)) for axis in range(2))
        column = np.minimum((np.mod(u, 1) * width).astype(np.int64), width - 1)
        row = np.minimum((np.mod(1 - v, 1) * height).astype(np.int64), height - 1)
        color[rows] = material.texture[row, column]
        color[rows, 3] *= material.opacity
    return color


def _shade(
    mesh: Mesh, view: View, triangle: Int[np.ndarray, " n"], weights: Float[np.ndarray, "n 3"]
) -> Float[np.ndarray, "n 3"]:
    """Light on surface points: a bright sky, a lamp, and its reflection on shiny materials."""
    corner = mesh.normals[triangle]
    normal = [sum(weights[:, k] * corner[:, k, axis] for k in range(3)) for axis in range(3)]
    length = np.maximum(np.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2), 1e-12)
    axes = _axes(view)
    right, up, near = (
        (normal[0] * axis[0] + normal[1] * axis[1] + normal[2] * axis[2]) / length for axis in axes
    )
    sky = normal[1] / length
    # Models do not say which side of a wall is out: light the side that is seen.
    back = np.where(near < 0, -1.0, 1.0)
    right, up, near, sky = right * back, up * back, near * back, sky * back
    lamp = np.array(view.light) / math.sqrt(sum(part * part for part in view.light))
    facing = np.maximum(right * lamp[0] + up * lamp[1] + near * lamp[2], 0)
    half = np.array([lamp[0], lamp[1], lamp[2] + 1])
    half = half / math.sqrt(sum(float(part) ** 2 for part in half))
    glint = np.maximum(right * half[0] + up * half[1] + near * half[2], 0)
    for _ in range(5):  # to the 32nd power, by products: the same on every machine
        glint = glint * glint
    shine = np.array([material.shine for material in mesh.materials])[mesh.material_of[triangle]]
    light = (0.5 + 0.09 * sky + 0.54 * facing) * view.exposure
    color = _color(mesh, triangle, weights)[:, :3] * np.array(view.tint)
    return color * light[:, None] + (0.22 * np.minimum(shine, 1) * glint)[:, None]
