"""The answer in words: the first sentence of a report, whether training helped, how an earlier run did."""

import math
from collections.abc import Mapping
from typing import Any

from nearfar.data.seen import Seen
from nearfar.report.figures import percent


def sentence(summary: Mapping[str, Any], nouns: tuple[str, str]) -> tuple[str, str, str, str]:
    """The report in one sentence, in parts: of what, how many, find what, compared with what."""
    results = summary["results"]
    before = results.get("before", {}).get("name", "").removeprefix("before training: ")
    others = {"pixels": "pixels alone", "before": before}
    aside = ", ".join(
        f"{words}: {in_100(results[kind]['recall_at_k']['1'])}"
        for kind, words in others.items()
        if kind in results
    )
    found = f"{in_100(results['after']['recall_at_k']['1'])} in 100"
    worse = {"before": ": training made it worse", "pixels": ", fewer than by pixels alone"}
    first = next((words for kind, words in worse.items() if kind in summary["worse_than"]), "")
    return (
        f"Of {of_what(summary, nouns[0])},",
        found,
        f"find the same {nouns[1]} first{first}" + ("" if aside else "."),
        f"({aside})." if aside else "",
    )


def of_what(summary: Mapping[str, Any], plural: str) -> str:
    """Say which pictures the figures are of, and what training saw of them."""
    seen = Seen.from_dict(summary["data"]["training_saw"])
    pictures = f"{summary['queries']:,} pictures"
    if seen.learned:
        which = "all" if seen.learned == seen.images else f"{seen.learned:,}"
        return f"{pictures}, {which} of which training learned from"
    match seen.kind:
        case "unseen":
            return f"{pictures} of {plural} never seen in training"
        case "seen":
            return f"{pictures} not used in training, of {plural} that training saw"
        case "some":
            some = f"of {seen.classes:,} {plural} of which training saw {seen.seen:,}"
            return f"{pictures} not used in training, {some}"
        case _:
            return pictures


def title_of(seen: Seen) -> str:
    """The title of the test pictures' contact sheet."""
    if seen.learned:
        return "test pictures, some of them learned from"
    return {
        "unseen": "never seen in training",
        "seen": "not used in training, of classes that were",
        "some": f"not used in training, {seen.seen} of the {seen.classes} classes were",
        "unknown": "test pictures",
    }[seen.kind]


def of_validation(seen: Seen | None) -> str:
    """Name the pictures of the validation by what training saw of their classes."""
    if seen is None or seen.kind == "unknown":
        return "validation"
    return {
        "unseen": "validation, on classes not learned from",
        "seen": "validation, on the classes learned from",
        "some": f"validation, {seen.seen} of {seen.classes} classes learned from",
    }[seen.kind]


def worse_than(results: Mapping[str, Any]) -> list[str]:
    """List what finds the right picture first more often than the trained model does."""
    after = results["after"]["recall_at_k"]["1"]
    return [kind for kind in ("before", "pixels") if kind in results and _first(results[kind]) > after]


def verdict(results: Mapping[str, Any], *, pretrained: bool) -> str | None:
    """Say that training made it worse, where it did."""
    worse = worse_than(results)
    if not worse:
        return None
    value = percent(results["after"]["recall_at_k"]["1"])
    other = percent(_first(results[worse[0]]))
    if worse[0] == "pixels":
        return f"Raw pixels find more right pictures first than the trained model: {other}, not {value}."
    began = "the pretrained features that it began with" if pretrained else "the untrained network"
    return f"Training made it worse than {began}: {other} → {value}."


def in_100(share: float) -> str:
    """A share as a whole number of 100 that never calls some none or most all."""
    if math.isnan(share):
        return "none"
    whole = round(100 * share)
    if whole == 100 and share < 1:
        return "more than 99"
    if whole == 0 and share > 0:
        return "fewer than 1"
    return str(whole)


def against(previous: Mapping[str, Any] | None, summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Compare with another run in one sentence, which says so when the difference may be chance."""
    if not previous or "results" not in previous or "after" not in previous["results"]:
        return None
    old, new = previous["results"]["after"], summary["results"]["after"]
    before, now = float(old["recall_at_k"]["1"]), float(new["recall_at_k"]["1"])
    points = 100 * (now - before)
    direction = (
        "the same as"
        if abs(points) < 0.05
        else f"{abs(points):.1f} points {'above' if points > 0 else 'below'}"
    )
    words = f"{100 * now:.1f} % is {direction} the previous run's {100 * before:.1f} %"
    old_span, new_span = old["intervals"].get("recall_at_1"), new["intervals"].get("recall_at_1")
    if old_span and new_span and abs(points) >= 0.05:
        touching = old_span[0] <= new_span[1] and new_span[0] <= old_span[1]
        words += (
            "; the intervals overlap, so this may be chance" if touching else "; the intervals do not overlap"
        )
    if previous.get("data", {}).get("test") != summary["data"]["test"]:
        words += "; the test pictures differ, so the two cannot be compared"
    return {"recall_at_1": before, "points": points, "verdict": words + "."}


def _first(result: Mapping[str, Any]) -> float:
    return float(result["recall_at_k"]["1"])
