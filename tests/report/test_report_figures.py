"""Figures show the numbers they are given: lengths in proportion, bands around curves, links to classes."""

import itertools
import math
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.report.curves import chosen, column, steps, training_curves
from nearfar.report.figures import (
    Bar,
    ClassBar,
    Curve,
    Histogram,
    class_bars,
    headline_bars,
    histogram,
    percent,
    recall_curve,
)
from nearfar.report.svg import Scale, spread_labels, ticks

WIDTHS = pytest.mark.parametrize("width", [348.0, 1080.0])


def marks(svg: str, tag: str, kind: str) -> list[ElementTree.Element]:
    """Elements of a tag whose class is exactly ``kind``; parsing fails where the SVG is not well formed."""
    return [element for element in ElementTree.fromstring(svg).iter(tag) if element.get("class") == kind]


def points(path: ElementTree.Element) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in re.findall(r"[ML]([-\d.]+) ([-\d.]+)", path.get("d"))]


@WIDTHS
def test_headline_bars_are_as_long_as_their_shares(width):
    bars = [
        Bar("raw pixels", "pixels", 0.2, 0.1, 0.3),
        Bar("before", "before", 0.4, 0.35, 0.45),
        Bar("after", "after", 0.8, 0.7, 0.9),
    ]
    svg = headline_bars(bars, width, "title")
    track = float(marks(svg, "rect", "track")[0].get("width"))
    for bar in bars:
        (fill,) = marks(svg, "rect", f"fill {bar.kind}")
        assert float(fill.get("width")) == pytest.approx(bar.value * track, abs=0.02)
        assert fill.get("x") == marks(svg, "rect", "track")[0].get("x")
    whiskers = marks(svg, "line", "whisker")
    start = float(marks(svg, "rect", "track")[0].get("x"))
    assert float(whiskers[0].get("x1")) == pytest.approx(start + 0.1 * track, abs=0.02)
    assert float(whiskers[0].get("x2")) == pytest.approx(start + 0.3 * track, abs=0.02)


def test_a_bar_without_interval_has_no_whisker():
    svg = headline_bars([Bar("after", "after", 0.5, math.nan, math.nan)], 600, "title")
    assert not marks(svg, "line", "whisker")
    assert "nan" not in svg


@WIDTHS
def test_recall_band_holds_its_curve(width):
    curve = Curve("after training", "after", (1, 2, 4), (0.5, 0.6, 0.9), (0.4, 0.55, 0.8), (0.6, 0.7, 1.0))
    svg = recall_curve([curve], width, "title", "object")
    line = points(marks(svg, "path", "stroke after")[0])
    band = points(marks(svg, "path", "band after")[0])
    upper, lower = band[:3], band[:2:-1]
    for (x, y), (x_up, y_up), (x_low, y_low) in zip(line, upper, lower, strict=True):
        assert x == x_up == x_low
        assert y_up < y < y_low  # the picture's y runs downwards
    assert line[1][0] - line[0][0] == pytest.approx(
        line[2][0] - line[1][0], abs=0.02
    )  # k doubles at each step


@WIDTHS
def test_class_bars_stand_on_zero_and_link_to_their_class(width):
    bars = [ClassBar("a", "class-0", 4, 4), ClassBar("b<c", "class-1", 2, 4), ClassBar("d", "class-2", 0, 4)]
    svg = class_bars(bars, width, "title", worst=1)
    good, middle = marks(svg, "rect", "fill after")
    (bad,) = marks(svg, "rect", "fill wrong-bar")
    assert float(good.get("height")) == pytest.approx(2 * float(middle.get("height")), abs=0.02)
    feet = [float(bar.get("y")) + float(bar.get("height")) for bar in (good, middle)]
    assert feet[0] == pytest.approx(feet[1], abs=0.02)
    assert float(bad.get("height")) < 2
    assert [link.get("href") for link in ElementTree.fromstring(svg).iter("a")] == [
        "#class-0",
        "#class-1",
        "#class-2",
    ]
    assert "b<c: 2 of 4 queries right" in [title.text for title in ElementTree.fromstring(svg).iter("title")]


@WIDTHS
@pytest.mark.parametrize("threshold", [-1.0, 0.25, 1.0])
def test_histogram_heights_and_threshold(width, threshold):
    panel = Histogram("after training", [0.0, 0.25, 0.75], [0.5, 0.5, 0.0], threshold)
    svg = histogram([panel], [-1.0, 0.0, 0.5, 1.0], width, "title")
    floor = float(marks(svg, "line", "axis")[0].get("y1"))
    same = points(marks(svg, "path", "hill positive")[0])
    heights = [floor - y for _, y in same[:6:2]]
    assert heights[2] == pytest.approx(3 * heights[1], abs=0.05)
    assert heights[0] == 0
    (mark,) = marks(svg, "line", "mark")
    left, right = same[0][0], same[5][0]
    assert float(mark.get("x1")) == pytest.approx(left + (threshold + 1) / 2 * (right - left), abs=0.02)
    for text in ElementTree.fromstring(svg).iter("text"):
        assert 0 <= float(text.get("x")) <= width


LOG = [
    {"kind": "step", "step": 0, "loss": 2.0, "active": 1.0},
    {"kind": "step", "step": 5, "loss": None, "active": 0.5},
    {"kind": "step", "step": 10, "loss": 1.0, "active": 0.5},
    {"kind": "validation", "step": 5, "epoch": 0, "recall_at_1": 0.5, "map_at_r": 0.2, "best": True},
    {"kind": "validation", "step": 10, "epoch": 1, "recall_at_1": 0.4, "map_at_r": 0.1, "best": False},
    {"kind": "step", "step": 10, "loss": 1.5, "active": 0.5},
]


@WIDTHS
def test_training_curves_share_their_axis(width):
    svg = training_curves(LOG, width, "title")
    loss, active = (points(path) for path in marks(svg, "path", "stroke thin after"))
    assert [x for x, _ in loss] == [active[0][0], active[-1][0]]
    (line,) = marks(svg, "line", "mark")
    assert float(line.get("x1")) == pytest.approx((active[0][0] + active[-1][0]) / 2, abs=0.02)
    assert "kept: epoch 1" in svg
    assert "spread" not in svg


@WIDTHS
def test_training_curves_show_what_comes_from_a_memory(width):
    told = [
        {
            "kind": "step",
            "step": k,
            "loss": 1.0,
            "pairs_from_memory": 0.9,
            "gradient_from_memory": 0.2 + k / 100,
        }
        for k in range(1, 11)
    ]
    svg = training_curves(told, width, "title")
    assert "what comes from the memory" in svg
    assert [part in svg for part in (">pairs<", ">gradient<")] == [True, True]
    (pairs,) = (points(path) for path in marks(svg, "path", "stroke thin before"))
    _, gradient = (points(path) for path in marks(svg, "path", "stroke thin after"))
    assert len({y for _, y in pairs}) == 1
    assert pairs[0][1] < gradient[-1][1] < gradient[0][1]  # y grows downwards
    assert "from the memory" not in training_curves(LOG, width, "title")


def test_the_log_of_a_resumed_run_is_read_once():
    assert [line["loss"] for line in steps(LOG)] == [2.0, None, 1.5]
    assert chosen(LOG)["epoch"] == 1
    assert chosen([]) is None


def test_long_columns_are_averaged():
    lines = [{"kind": "step", "step": step, "loss": float(step)} for step in range(10_000)]
    thin = column(lines, "loss")
    assert len(thin) == 240
    assert thin[0][1] == pytest.approx(sum(range(42)) / 42)


def test_curves_of_a_log_without_validation_or_steps():
    assert "kept" not in training_curves(LOG[:1], 700, "title")
    assert ElementTree.fromstring(training_curves([], 700, "title")) is not None


@given(st.lists(st.floats(0, 100), min_size=1, max_size=5))
def test_labels_do_not_touch_and_keep_their_order(places):
    moved = spread_labels(places, 10, 0, 100)
    order = sorted(range(len(places)), key=lambda index: places[index])
    ranked = [moved[index] for index in order]
    assert all(above - below >= 10 - 1e-6 for below, above in itertools.pairwise(ranked))
    assert min(moved) >= -1e-6
    assert max(moved) <= 100 + 1e-6


def test_labels_that_have_room_stay():
    assert spread_labels([10, 80, 40], 10, 0, 100) == [10, 80, 40]


def test_ticks_are_round():
    assert ticks(0, 1, 5) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(-0.62, 1.0, 4) == [-0.5, 0.0, 0.5, 1.0]
    assert ticks(0, 440, 8) == [0, 100, 200, 300, 400]
    assert ticks(3, 3) == [3]


def test_scales():
    assert Scale(0, 2, 10, 20)(1) == 15
    assert Scale(1, 16, 0, 4, log=True)(4) == 2
    assert percent(0.8341) == "83.4\u00a0%"
    assert percent(math.nan) == "–"
