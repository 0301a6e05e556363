"""Reads a configuration: a TOML file or a source of images, then ``key=value`` overrides."""

import logging
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from nearfar.config.fit import fit
from nearfar.config.limits import check_limits
from nearfar.config.sentences import known_keys, sentence, unknown_key
from nearfar.errors import ConfigError, shortened, suggest

if TYPE_CHECKING:
    from nearfar.config.config import Config

log = logging.getLogger("nearfar")

DEPTH = 8
"""Tables within tables that a key may lie in."""
LONGEST = 4096
"""Characters of a path."""
TABLES = (".csv", ".parquet")


def load_config(kind: "type[Config]", source: str | Path, overrides: Sequence[str]) -> "Config":
    """Do what `Config.load` says."""
    given = _overrides(overrides, known_keys(kind))
    path = Path(source)
    if path.suffix.lower() == ".toml":
        values = _read(path)
        _settle_paths(values, path.parent)
        if isinstance(source_given := given.get(("data", "source")), str):
            given[("data", "source")] = _image_source(source_given)  # counts from here, not from the file
        planned = {key: dict(value) if isinstance(value, dict) else value for key, value in values.items()}
        values = _merge(values, given, path.name)
        _shorten_warmup(planned, values, given)
        return _validate(kind, values, path.name, given)
    values = _merge({"data": {"source": _image_source(str(source))}}, given, "")
    return _validate(kind, fit(values), "", given)


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: there is no such file.") from None
    except OSError as error:
        raise ConfigError(f"{shortened(str(path))}: {error.strerror or error}.") from None
    except RecursionError:
        raise ConfigError(f"{path.name}: it is nested too deep; no setting needs that.") from None
    except ValueError as error:  # TOMLDecodeError, or a number of thousands of digits
        raise ConfigError(f"{path.name}: this is not TOML: {shortened(str(error), 300)[1:-1]}.") from None


def _overrides(texts: Sequence[str], known: list[str]) -> dict[tuple[str, ...], Any]:
    """Return {("loss", "beta"): 40.0}; None stands for "take the default again"."""
    given: dict[tuple[str, ...], Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        place = tuple(key.strip().split("."))
        if not equals or not all(place):
            raise ConfigError(f"{shortened(text)} is not an override; write key=value, as in loss.beta=40.")
        if len(place) > DEPTH:
            raise ConfigError(f"unknown key {shortened(key.strip())}: no setting lies so deep.")
        if len(place) == 1:
            raise unknown_key(key.strip(), known)
        given[place] = _value(value.strip())
    return given


def _value(text: str) -> Any:
    if not text:
        return None
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except RecursionError:
        raise ConfigError(f"{shortened(text)} is nested too deep; no setting needs that.") from None
    except ValueError:  # no TOML: a bare word; or a number of thousands of digits
        return text


def _merge(values: dict[str, Any], given: dict[tuple[str, ...], Any], file: str) -> dict[str, Any]:
    for place, value in given.items():
        table = values
        for depth, part in enumerate(place[:-1], start=1):
            table = table.setdefault(part, {})
            if not isinstance(table, dict):
                where = f"{file}: " if file else ""
                raise ConfigError(
                    f"{where}{'.'.join(place[:depth])} is not a table, so {'.'.join(place)} has no place."
                )
        if value is None:
            table.pop(place[-1], None)
        else:
            table[place[-1]] = value
    return values


def _shorten_warmup(planned: dict[str, Any], values: dict[str, Any], given: Mapping[Any, Any]) -> None:
    """Where only the length of a run was overridden, let a warm-up that does not fit keep its share of it."""
    if ("train", "epochs") not in given or ("optimizer", "warmup_epochs") in given:
        return
    optimizer, train = planned.get("optimizer"), planned.get("train")
    if not isinstance(optimizer, dict) or not isinstance(train, dict):
        return
    warmup, before, now = optimizer.get("warmup_epochs"), train.get("epochs"), given["train", "epochs"]
    if not (isinstance(warmup, int | float) and isinstance(before, int) and isinstance(now, int)):
        return
    if not 1 <= now <= warmup < before or warmup <= 1:
        return
    shorter = round(warmup * now / before, 6)
    values["optimizer"]["warmup_epochs"] = shorter
    log.warning(
        "optimizer.warmup_epochs is %g of %g epochs in the file, so it is %g of %g now.",
        warmup,
        before,
        shorter,
        now,
    )


def _settle_paths(values: dict[str, Any], folder: Path) -> None:
    """Let a path in a file count from that file's folder, wherever the run is started."""
    data = values.get("data")
    for key in ("source", "root"):
        if isinstance(data, dict) and isinstance(data.get(key), str):
            beside = folder / Path(data[key]).expanduser()
            if len(data[key]) < LONGEST and beside.exists() and data[key] not in _packs():
                data[key] = str(beside.resolve())


def _image_source(source: str) -> str:
    if source in _packs():
        return source
    path = Path(source).expanduser()
    try:
        if path.exists():
            return str(path.resolve())
    except (OSError, ValueError):  # longer than a name can be, or with a character that none has
        raise ConfigError(f"{shortened(source)}: there is no such file or folder.") from None
    if os.sep in source or path.suffix.lower() in TABLES:
        raise ConfigError(f"{shortened(source, 300)[1:-1]}: there is no such file or folder.")
    raise ConfigError(
        f"{shortened(source)} is no configuration file, folder, table or pack.{suggest(source, _packs())} "
        f"Packs: {', '.join(_packs())}."
    )


def _packs() -> list[str]:
    from nearfar.data import packs

    return list(packs.names())


def _validate(
    kind: "type[Config]", values: dict[str, Any], file: str, given: dict[tuple[str, ...], Any]
) -> "Config":
    from nearfar.config.loss_settings import check_settings

    try:
        config = _checked(kind, values)
        check_limits(config)
        check_settings(config)  # last, since the signatures of the losses need torch
    except ConfigError as error:
        overridden = any(_names(str(error), place) for place in given)
        raise ConfigError(str(error) if overridden or not file else f"{file}: {error}") from None
    return config


def _checked(kind: "type[Config]", values: dict[str, Any]) -> "Config":
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        raise sentence(error, kind) from None


def _names(message: str, place: tuple[str, ...]) -> bool:
    """Whether the message is about this override: then the file is not to blame."""
    first = message.removeprefix("unknown key ").split()[0].strip("'.;:")
    return first == ".".join(place)
