"""What to try next: at most three sentences, each from a number that was measured, each naming a setting."""

from collections.abc import Mapping, Sequence
from typing import Any

from nearfar.errors import NearfarError
from nearfar.losses import create, names
from nearfar.losses.parts.registry import has_proxies
from nearfar.report.curves import chosen, decisive, steps, validations
from nearfar.report.figures import percent

# A share by which validations hardly differ.
LEVEL = 0.005


def advise(
    summary: Mapping[str, Any], log: Sequence[Mapping[str, Any]], config: Mapping[str, Any]
) -> list[str]:
    """Return the most useful sentences first; none where nothing measured asks for a change."""
    found = [
        *_worse(summary, config),
        *_collapse(summary, config),
        *_length(log, config),
        *_signal(log, config),
        *_overlap(summary, config),
        *_confused(summary),
    ]
    return found[:3]


def _setting(config: Mapping[str, Any], section: str, key: str) -> Any:
    return config.get(section, {}).get(key)


def _worse(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """What to do where something simpler finds more than the trained model."""
    if not (told := summary.get("verdict")):
        return []
    rate = _setting(config, "optimizer", "lr")
    own = str(_setting(config, "model", "backbone") or "").startswith("nearfar/")
    if _setting(config, "model", "pretrained") and not own:
        now = f" from {rate:g} to {rate / 10:g}" if isinstance(rate, float) else ""
        return [
            f"{told} Lower optimizer.lr{now}, or let the backbone rest at first with "
            "optimizer.head_only_epochs; if it stays so, the pretrained network alone serves better."
        ]
    few = summary.get("data", {}).get("train", {})
    count = (
        f"{few['images']:,} pictures of {few['classes']:,} classes are "
        if few.get("images")
        else "There are "
    )
    return [
        f"{told} {count}few to learn from nothing: begin with pretrained weights, by model.pretrained = "
        "true and model.backbone = 'tf_efficientnet_lite0' (nearfar models lists what can be had offline)."
    ]


def _collapse(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    pairs = summary["similarity"].get("after")
    if not pairs or pairs["negative_mean"] < 0.8:
        return []
    rate = _setting(config, "optimizer", "lr")
    now = f" from {rate:g} to {rate / 10:g}" if isinstance(rate, float) else ""
    return [
        f"Different pictures are {pairs['negative_mean']:.2f} alike on average, which is a collapse: lower "
        f"optimizer.lr{now}{_other_rule(config)}."
    ]


def _other_rule(config: Mapping[str, Any]) -> str:
    """Name a mining rule, where the loss takes it and does not have it already."""
    rule = _setting(config, "loss", "mining")
    if (rule.get("name") if isinstance(rule, Mapping) else rule) == "semi_hard":
        return ""
    name = _setting(config, "loss", "name")
    if name not in names():
        return ""
    try:
        known: dict[str, Any] = {"classes": 2, "dim": 2} if has_proxies(name) else {}
        create(name, mining="semi_hard", **known)
    except NearfarError:
        return ""
    return ", or let loss.mining choose 'semi_hard'"


def _length(log: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    best, checks = chosen(log), validations(log)
    total, epochs = _setting(config, "train", "steps"), _setting(config, "train", "epochs")
    if isinstance(total, int) and checks:
        epochs = checks[-1]["epoch"]  # of a run whose length is given in steps
    if not best or len(checks) < 3 or not isinstance(epochs, int):
        return []
    longer = f"train.steps to {2 * total}" if isinstance(total, int) else f"train.epochs to {2 * epochs}"
    key = decisive(best)
    if not isinstance(best.get(key), int | float):
        return []
    value = f"{'MAP@R' if key == 'map_at_r' else 'recall@1'} {percent(best[key])}"
    if best[key] >= 1:
        return [
            f"Validation reached {value} and cannot tell epochs apart any more, so the last of them was "
            "kept: hold out more classes with train.validation_fraction, or set train.validate_on to 'none'."
        ]
    if best["step"] == checks[-1]["step"]:
        return [
            f"The last validation was the best one ({value} at epoch {best['epoch']} of {epochs}), so "
            f"the model was still learning: set {longer}."
        ]
    later = [line[key] for line in checks if line["step"] > best["step"] and line.get(key) is not None]
    if later and best[key] - min(later) < LEVEL:
        return [
            f"Validation could not choose: its {value} at epoch {best['epoch']} of {epochs} was reached or "
            f"nearly reached each of the {len(later)} times after it. Hold out more classes with "
            "train.validation_fraction, or set train.validate_on to 'none', which keeps the last epoch."
        ]
    if best["epoch"] <= 0.5 * epochs and later and later[-1] <= best[key] - LEVEL:
        return [
            f"Validation was best at epoch {best['epoch']} of {epochs} ({value}) and fell afterwards, to "
            f"{percent(later[-1])} at the end: raise "
            "optimizer.weight_decay or widen augment.scale, so that the training pictures are learned less "
            "by heart."
        ]
    return []


def _signal(log: Sequence[Mapping[str, Any]], config: Mapping[str, Any]) -> list[str]:
    lines = [line for line in steps(log) if isinstance(line.get("active"), int | float)]
    tail = lines[-max(1, len(lines) // 10) :]
    active = sum(float(line["active"]) for line in tail) / len(tail) if tail else 1.0
    if not active < 0.1:
        return []
    classes = _setting(config, "batch", "classes_per_batch")
    more = f" from {classes} to {2 * classes}" if isinstance(classes, int) else ""
    return [
        f"At the end {percent(active, 0)} of the loss's terms still taught something: raise "
        f"batch.classes_per_batch{more}, so that each picture meets harder company."
    ]


def _overlap(summary: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    pairs = summary["similarity"].get("after")
    if not pairs or pairs["overlap"] < 0.1:
        return []
    images = _setting(config, "batch", "images_per_class")
    if isinstance(images, int) and images < 4:
        return [
            f"Positives and negatives overlap in {percent(pairs['overlap'], 0)} and each class brings only "
            f"{images} pictures to a batch: set batch.images_per_class to 4."
        ]
    if (
        _setting(config, "model", "pretrained") is False
        and _setting(config, "model", "backbone") == "nearfar/small"
    ):
        return [
            f"Positives and negatives overlap in {percent(pairs['overlap'], 0)}: a larger or pretrained net "
            "may part them; set model.backbone to 'tf_efficientnet_lite0' and model.pretrained to true."
        ]
    dim = _setting(config, "model", "dim")
    more = f" from {dim} to {2 * dim}" if isinstance(dim, int) else ""
    return [f"Positives and negatives overlap in {percent(pairs['overlap'], 0)}: raise model.dim{more}."]


def _confused(summary: Mapping[str, Any]) -> list[str]:
    pairs, wrong = summary["confusions"], summary["wrong_queries"]
    if not pairs or wrong < 10 or pairs[0]["count"] < 0.15 * wrong:
        return []
    first, second = pairs[0]["classes"]
    return [
        f"{pairs[0]['count']} of the {wrong} wrong answers mix “{first}” with “{second}”: look at their "
        "pictures above, and if they are one kind of thing, join them in the table of data.source."
    ]
