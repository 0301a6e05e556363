"""The renderer against a loop over every sample, and the mesh reader on models small enough to write down."""

import io
import math
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from packs.furniture import litter
from packs.mesh import Archive, Material, Mesh, read_mesh
from packs.render import View, _covered, render
from packs.triangulate import triangulate

FRONT = View(azimuth=0.0, elevation=0.0, zoom=0.5)


def mesh(vertices: list, triangles: list, colors: list, opacity: float = 1.0) -> Mesh:
    """A mesh with one material per triangle, or one for all."""
    points, corners = np.array(vertices, float), np.array(triangles)
    along = points[corners[:, 1]] - points[corners[:, 0]]
    normals = np.cross(along, points[corners[:, 2]] - points[corners[:, 0]])
    normals /= np.linalg.norm(normals, axis=1, keepdims=True)
    return Mesh(
        vertices=points,
        triangles=corners,
        normals=np.repeat(normals[:, None], 3, axis=1),
        texture_points=np.zeros((len(corners), 3, 2)),
        material_of=np.arange(len(corners)) % len(colors),
        materials=tuple(Material(color=color, opacity=opacity) for color in colors),
    )


def square(depth: float, color: tuple, opacity: float = 1.0, half: float = 0.5) -> Mesh:
    corners = [[-half, -half, depth], [half, -half, depth], [half, half, depth], [-half, half, depth]]
    return mesh(corners, [[0, 1, 2], [0, 2, 3]], [color], opacity)


def sphere(steps: int = 24) -> Mesh:
    rows, vertices, triangles = steps // 2, [], []
    for row in range(rows + 1):
        for column in range(steps):
            down, around = math.pi * row / rows, 2 * math.pi * column / steps
            vertices.append(
                [math.sin(down) * math.cos(around), math.cos(down), math.sin(down) * math.sin(around)]
            )
    for row in range(rows):
        for column in range(steps):
            a, b = row * steps + column, row * steps + (column + 1) % steps
            triangles += [[a, b, a + steps], [b, b + steps, a + steps]]
    kept = [
        t for t in triangles if np.linalg.norm(np.cross(*(np.diff(np.array(vertices)[t], axis=0)))) > 1e-9
    ]
    return mesh(vertices, kept, [(0.0, 0.0, 0.0)])


def test_covered_samples_are_those_inside_the_triangle() -> None:
    random = np.random.default_rng(0)
    x, y = random.uniform(-4, 20, (2, 40, 3))
    found = {(int(t), int(c), int(r)) for part in _covered(x, y, 16) for t, c, r in zip(*part, strict=True)}
    expected = set()
    for t in range(40):
        for row in range(16):
            for column in range(16):
                px, py = column + 0.5, row + 0.5
                sides = [
                    (x[t, (k + 1) % 3] - x[t, k]) * (py - y[t, k])
                    - (y[t, (k + 1) % 3] - y[t, k]) * (px - x[t, k])
                    for k in range(3)
                ]
                if all(side > 0 for side in sides) or all(side < 0 for side in sides):
                    expected.add((t, column, row))
    assert found == expected


def test_a_square_fills_the_part_of_the_picture_that_zoom_says() -> None:
    drawn = np.asarray(render(square(0.0, (0.0, 0.0, 0.0)), FRONT, 1.0, 32)).mean(axis=2) < 128
    assert drawn.sum() == 16 * 16
    assert drawn[8:24, 8:24].all()


def test_the_nearer_surface_hides_the_other_whatever_their_order() -> None:
    vertices = [[-1, -1, 0.3], [1, -1, 0.3], [0, 1, 0.3], [-1, -1, -0.3], [1, -1, -0.3], [0, 1, -0.3]]
    red, blue = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0)
    for triangles, colors in (
        ([[0, 1, 2], [3, 4, 5]], [red, blue]),
        ([[3, 4, 5], [0, 1, 2]], [blue, red]),
    ):
        middle = np.asarray(render(mesh(vertices, triangles, colors), FRONT, 1.0, 32))[18, 16]
        assert middle[0] > 200
        assert middle[2] == 0


@pytest.mark.parametrize("opacity", [0.25, 0.5, 0.75])
def test_glass_lets_through_what_its_opacity_leaves(opacity: float) -> None:
    picture = np.asarray(render(square(0.0, (0.0, 0.0, 0.0), opacity), FRONT, 1.0, 32), float) / 255
    middle = picture[10:22, 10:22]
    np.testing.assert_allclose(middle, 1 - opacity, atol=0.07)
    assert np.ptp(middle) == 0  # no noise: every pixel has the same pattern


def test_a_closed_surface_has_no_holes() -> None:
    view = View(azimuth=0.4, elevation=0.5, zoom=0.9)
    picture = np.asarray(render(sphere(), view, 1.0, 64)).mean(axis=2)
    down, right = np.mgrid[0:64, 0:64] - 31.5
    inside = np.hypot(down, right) < 0.9 * 32 - 2
    assert picture[inside].max() < 60  # black, but for reflections


def test_rendering_twice_gives_the_same_pixels() -> None:
    view = View(azimuth=1.0, elevation=0.3, zoom=0.8)
    assert render(sphere(), view, 0.9, 24).tobytes() == render(sphere(), view, 0.9, 24).tobytes()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0.2, 1.0), min_size=4, max_size=12), st.integers(0, 2))
def test_triangles_of_a_star_have_its_area(radii: list[float], axis: int) -> None:
    angles = np.linspace(0, 2 * np.pi, len(radii), endpoint=False)
    x, y = np.array(radii) * np.cos(angles), np.array(radii) * np.sin(angles)
    points = np.insert(np.stack([x, y], axis=1), axis, 0.7, axis=1)
    triangles, owner = triangulate([list(range(len(radii)))], points)
    area = abs(float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum())) / 2
    corners = points[triangles]
    cut = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert len(triangles) == len(radii) - 2
    assert (owner == 0).all()
    assert cut.sum() == pytest.approx(area, rel=1e-3, abs=1e-6)


def test_a_frame_drawn_as_one_face_keeps_its_hole() -> None:
    # An outer square, a bridge, the inner square the other way round, and the bridge back.
    outer, inner = [(0, 0), (4, 0), (4, 4), (0, 4)], [(1, 1), (1, 3), (3, 3), (3, 1)]
    points = np.array([(*point, 0) for point in [*outer, outer[0], *inner, inner[0]]], float)
    triangles, _ = triangulate([list(range(10))], points)
    corners = points[triangles]
    area = np.linalg.norm(np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]), axis=1) / 2
    assert area.sum() == pytest.approx(16 - 4)


OBJ = """mtllib thing.mtl
v 0 0 0
v 2 0 0
v 2 2 0
v 0 2 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl picture
f 1/1 2/2 3/3 4/4
usemtl hidden
f -4 -3 -2
"""
MTL = "newmtl picture\nKd 1 0 0\nmap_Kd Half.PNG\nnewmtl hidden\nd 0.0\n"


@pytest.fixture
def archive(tmp_path: Path) -> Archive:
    texture = Image.new("RGB", (8, 8), (0, 255, 0))
    texture.paste((0, 0, 255), (0, 0, 8, 4))
    written = io.BytesIO()
    texture.save(written, "PNG")
    with zipfile.ZipFile(tmp_path / "things.sh3f", "w") as out:
        out.writestr("Models/Thing.obj", OBJ)
        out.writestr("Models/thing.mtl", MTL)
        out.writestr("Models/half.png", written.getvalue())
        out.writestr("Models/empty.obj", "v 0 0 0\n")
    return Archive(tmp_path / "things.sh3f")


def test_an_obj_file_is_read_with_its_texture_and_without_what_cannot_be_seen(archive: Archive) -> None:
    name = archive.find("models", "thing.OBJ")
    assert name is not None
    thing = read_mesh(archive, name)
    assert thing is not None
    assert len(thing.triangles) == 2  # the square; the clear triangle is left out
    np.testing.assert_allclose(np.abs(thing.vertices[:, :2]), 1 / math.sqrt(2))
    picture = np.asarray(render(thing, FRONT, 1.0, 32), float)
    top, bottom = picture[10, 16], picture[21, 16]
    assert top[2] > 200
    assert top[1] == 0  # blue above
    assert bottom[1] > 200
    assert bottom[2] == 0  # green below


def test_a_model_without_faces_is_nothing(archive: Archive) -> None:
    assert read_mesh(archive, "Models/empty.obj") is None


def test_litter_is_made_of_colours_and_differs_between_pictures() -> None:
    random = np.random.default_rng(0)
    first, second = litter(random, 64), litter(random, 64)
    assert first.shape == (64, 64, 3)
    assert first.min() >= 0
    assert first.max() <= 1
    assert np.abs(first - second).mean() > 0.05
