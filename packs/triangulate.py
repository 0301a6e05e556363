"""Cut polygons in space into triangles; those with dents too, as a railing drawn as one face."""

import numpy as np
from jaxtyping import Bool, Float, Int


def triangulate(
    faces: list[list[int]], points: Float[np.ndarray, "corner 3"]
) -> tuple[Int[np.ndarray, "triangle 3"], Int[np.ndarray, " triangle"]]:
    """Cut each face, a list of rows of ``points``, into triangles.

    Returns:
        The triangles as rows of ``points``, in the order of the faces, and the face that each comes from.
    """
    sizes = np.array([len(face) for face in faces], dtype=np.int64)
    pieces: list[np.ndarray] = [np.empty((0, 3), dtype=np.int64)]
    owners: list[np.ndarray] = [np.empty(0, dtype=np.int64)]
    for size in np.unique(sizes[sizes >= 3]):
        rows = np.flatnonzero(sizes == size)
        corners = np.array([faces[row] for row in rows], dtype=np.int64)
        dented = _dented(points[corners])
        for second in range(1, size - 1):  # a fan around the first corner, where there is no dent
            pieces.append(corners[~dented][:, [0, second, second + 1]])
            owners.append(rows[~dented])
        for row in np.flatnonzero(dented):
            cut = corners[row][_clip(points[corners[row]])]
            pieces.append(cut)
            owners.append(np.full(len(cut), rows[row]))
    owner = np.concatenate(owners)
    order = np.argsort(owner, kind="stable")
    return np.concatenate(pieces)[order], owner[order]


def _cross(left: Float[np.ndarray, "... 3"], right: Float[np.ndarray, "... 3"]) -> Float[np.ndarray, "... 3"]:
    return np.stack(
        [
            left[..., 1] * right[..., 2] - left[..., 2] * right[..., 1],
            left[..., 2] * right[..., 0] - left[..., 0] * right[..., 2],
            left[..., 0] * right[..., 1] - left[..., 1] * right[..., 0],
        ],
        axis=-1,
    )


def _dented(polygons: Float[np.ndarray, "face corner 3"]) -> Bool[np.ndarray, " face"]:
    """Faces with a corner that turns against the others."""
    ahead = np.roll(polygons, -1, axis=1) - polygons
    turn = _cross(np.roll(ahead, 1, axis=1), ahead)
    normal = _cross(polygons[:, 1:-1] - polygons[:, :1], polygons[:, 2:] - polygons[:, :1]).sum(axis=1)
    along = (turn * normal[:, None]).sum(axis=2)
    # A bent quadrilateral turns a little against itself through rounding: leave it alone.
    return (along < -1e-3 * np.abs(along).max(axis=1, keepdims=True)).any(axis=1)


def _clip(polygon: Float[np.ndarray, "corner 3"]) -> Int[np.ndarray, "triangle 3"]:
    """Cut ears off one dented polygon, in the plane that it lies in most."""
    normal = _cross(polygon[1:-1] - polygon[:1], polygon[2:] - polygon[:1]).sum(axis=0)
    across = int(np.argmax(np.abs(normal)))
    first, second = ((1, 2), (2, 0), (0, 1))[across]
    sign = 1.0 if normal[across] > 0 else -1.0
    x, y = (polygon[:, first] * sign).tolist(), polygon[:, second].tolist()
    left = list(range(len(polygon)))
    triangles: list[list[int]] = []
    while len(left) > 3:
        ear = _ear(left, x, y)
        before, after = left[ear - 1], left[(ear + 1) % len(left)]
        triangles.append([before, left[ear], after])
        del left[ear]
    triangles.append(left)
    return np.array(triangles, dtype=np.int64)


def _ear(left: list[int], x: list[float], y: list[float]) -> int:
    """Place of a corner that can be cut off; the least bad one where a polygon crosses itself."""

    def area(a: int, b: int, c: int) -> float:
        return (x[b] - x[a]) * (y[c] - y[a]) - (x[c] - x[a]) * (y[b] - y[a])

    bulges = [place for place in range(len(left)) if area(*_around(left, place)) > 0]
    dents = [left[place] for place in range(len(left)) if area(*_around(left, place)) <= 0]
    for place in bulges:
        a, b, c = _around(left, place)
        free = all(
            (x[p], y[p]) in {(x[a], y[a]), (x[b], y[b]), (x[c], y[c])}
            or not (area(a, b, p) >= 0 and area(b, c, p) >= 0 and area(c, a, p) >= 0)
            for p in dents
        )
        if free:
            return place
    return bulges[0] if bulges else 0


def _around(left: list[int], place: int) -> tuple[int, int, int]:
    return left[place - 1], left[place], left[(place + 1) % len(left)]
