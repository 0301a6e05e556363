"""Write SVG by hand: real text, page colours, nothing that a page would have to fetch."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape


@dataclass(frozen=True)
class Scale:
    """A straight map from values to picture units; ``log`` takes the logarithm first."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        low, high = (math.log2(self.low), math.log2(self.high)) if self.log else (self.low, self.high)
        place = math.log2(value) if self.log else value
        share = (place - low) / (high - low) if high > low else 0.5
        return self.start + share * (self.end - self.start)


def ticks(low: float, high: float, count: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) from ``low`` to ``high``, about ``count`` of them."""
    if not high > low:
        return [low]
    raw = (high - low) / max(count, 1)
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def number(value: float) -> str:
    """Write a coordinate in as few characters as its two decimals need."""
    return f"{value:.2f}".rstrip("0").rstrip(".")


@dataclass
class Drawing:
    """An SVG picture that grows by one mark at a time; colours come from classes of the page's style."""

    width: float
    height: float
    title: str
    parts: list[str] = field(default_factory=list)

    def text(
        self, x: float, y: float, words: str, *, kind: str = "", anchor: str = "start", turn: float = 0.0
    ) -> None:
        place = f' transform="rotate({number(turn)} {number(x)} {number(y)})"' if turn else ""
        where = "" if anchor == "start" else f' text-anchor="{anchor}"'
        style = f' class="{kind}"' if kind else ""
        self.parts.append(
            f'<text x="{number(x)}" y="{number(y)}"{where}{style}{place}>{escape(words)}</text>'
        )

    def line(self, x1: float, y1: float, x2: float, y2: float, kind: str) -> None:
        self.parts.append(
            f'<line class="{kind}" x1="{number(x1)}" y1="{number(y1)}" x2="{number(x2)}" y2="{number(y2)}"/>'
        )

    def bar(self, x: float, y: float, width: float, height: float, kind: str, note: str = "") -> None:
        inside = f"<title>{escape(note)}</title>" if note else ""
        self.parts.append(
            f'<rect class="{kind}" x="{number(x)}" y="{number(y)}" width="{number(max(width, 0))}" '
            f'height="{number(max(height, 0))}"' + (f">{inside}</rect>" if inside else "/>")
        )

    def curve(self, points: Sequence[tuple[float, float]], kind: str) -> None:
        if len(points) > 0:
            self.parts.append(f'<path class="{kind}" d="{path(points)}"/>')

    def area(
        self, upper: Sequence[tuple[float, float]], lower: Sequence[tuple[float, float]], kind: str
    ) -> None:
        """Fill between two curves that run from left to right."""
        if len(upper) > 0:
            self.parts.append(f'<path class="{kind}" d="{path([*upper, *reversed(lower)])}Z"/>')

    def dot(self, x: float, y: float, radius: float, kind: str, note: str = "") -> None:
        inside = f"<title>{escape(note)}</title>" if note else ""
        self.parts.append(
            f'<circle class="{kind}" cx="{number(x)}" cy="{number(y)}" r="{number(radius)}"'
            + (f">{inside}</circle>" if inside else "/>")
        )

    def open_link(self, target: str, label: str) -> None:
        self.parts.append(f'<a href="#{escape(target)}" aria-label="{escape(label)}">')

    def close_link(self) -> None:
        self.parts.append("</a>")

    def render(self, kind: str = "") -> str:
        """Return the picture as one ``<svg>`` element named by its title."""
        return (
            f'<svg class="figure {kind}" viewBox="0 0 {number(self.width)} {number(self.height)}" '
            f'width="{number(self.width)}" height="{number(self.height)}" role="img" '
            f'aria-label="{escape(self.title)}">{"".join(self.parts)}</svg>'
        )


def path(points: Sequence[tuple[float, float]]) -> str:
    """Return the path through the points as SVG path data."""
    return "M" + "L".join(f"{number(x)} {number(y)}" for x, y in points)


def spread_labels(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Move the labels of curves apart until none stands on another; order and nearness are kept."""
    order = sorted(range(len(places)), key=lambda index: places[index])
    moved = [min(max(place, low), high) for place in places]
    for below, above in itertools.pairwise(order):
        moved[above] = max(moved[above], moved[below] + gap)
    ceiling = high
    for index in reversed(order):
        moved[index] = min(moved[index], ceiling)
        ceiling = moved[index] - gap
    return moved
