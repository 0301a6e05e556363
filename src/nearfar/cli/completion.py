"""What the shell completes: names, runs, keys and their values. Nothing here imports torch."""

import ast
import contextlib
import io
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from nearfar.config import Config

# Where names are registered, and settings whose values are such names.
PLACES = {"loss": ("losses",), "mining": ("mining",), "sampler": ("data/samplers", "offline")}
NAMED = {"loss.name": "loss", "loss.mining": "mining", "batch.sampler": "sampler"}
# Registered under another name than their function has.
RENAMED = {"mining": ("all",)}
OWN_BACKBONES = ["nearfar/small", "nearfar/small-group-norm"]
RUN = "config.toml"


@cache
def registered(kind: str) -> Mapping[str, Mapping[str, str]]:
    """Return the losses, mining rules or samplers with their settings and defaults, as their files say.

    They are read and not imported: that would load torch, for seconds at each press of the key.
    """
    found: dict[str, dict[str, str]] = {name: {} for name in RENAMED.get(kind, ())}
    for place in PLACES[kind]:
        for file in sorted((Path(str(files("nearfar"))) / place).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            if "@register_" in text:
                for node in ast.parse(text).body:
                    if isinstance(node, ast.FunctionDef) and any(map(_registers, node.decorator_list)):
                        found[node.name] = dict(_defaults(node.args))
    return dict(sorted(found.items()))


def _registers(decorator: ast.expr) -> bool:
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return isinstance(called, ast.Name) and called.id.startswith("register_")


def _defaults(arguments: ast.arguments) -> Iterator[tuple[str, str]]:
    for argument, default in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True):
        yield argument.arg, str(default.value) if isinstance(default, ast.Constant) else ""


def names(kind: str) -> Callable[[str], list[str]]:
    """Return what completes the names of losses, mining rules or samplers."""

    def complete(incomplete: str) -> list[str]:
        return [name for name in registered(kind) if name.startswith(incomplete)]

    return complete


def packs(incomplete: str) -> list[str]:
    """Complete the names of packs."""
    from nearfar.data.packs import names

    return [name for name in names() if name.startswith(incomplete)]


def paths(incomplete: str) -> list[str]:
    """Complete files and folders."""
    folder, start = os.path.split(incomplete)
    try:
        with os.scandir(os.path.expanduser(folder) or ".") as entries:
            found = [(entry.name, entry.is_dir()) for entry in entries]
    except OSError:
        return []
    shown = [(name, is_folder) for name, is_folder in found if name.startswith(start)]
    return sorted(
        os.path.join(folder, name) + os.sep * is_folder
        for name, is_folder in shown
        if start.startswith(".") or not name.startswith(".")
    )


def runs(incomplete: str) -> list[str]:
    """Complete the folders of runs, and other folders on the way to one."""
    known = [str(file.parent) for file in sorted(Path("runs").glob(f"*/{RUN}"))]
    near = [run for run in known if run.startswith(incomplete)]
    return near or [path for path in paths(incomplete) if path.endswith(os.sep)]


def recipes(incomplete: str) -> list[str]:
    """Complete what can be trained on: recipes, packs, folders, tables and runs."""
    wanted = (".toml", ".csv", ".parquet", os.sep)
    here = [path for path in paths(incomplete) if path.endswith(wanted)]
    beside = sorted(map(str, Path("recipes").glob("*.toml"))) if "recipes".startswith(incomplete[:7]) else []
    found = [*packs(incomplete), *here, *(path for path in beside if path.startswith(incomplete))]
    return list(dict.fromkeys(found))


def data(incomplete: str) -> list[str]:
    """Complete sources of images: packs, folders and tables."""
    return [path for path in recipes(incomplete) if not path.endswith(".toml")]


def pictures(incomplete: str) -> list[str]:
    """Complete the settings that say where the pictures of a finished run are."""
    from nearfar.config.pictures import KEYS

    return [pair for pair in settings(incomplete) if pair.partition("=")[0] in KEYS]


def settings(incomplete: str) -> list[str]:
    """Complete ``key=value``: the keys of the configuration, then the values that a key takes."""
    key, equals, value = incomplete.partition("=")
    if equals:
        return [f"{key}={known}" for known in values(key, value)]
    found = [known for known in keys() if known.startswith(incomplete)]
    if len(found) == 1:  # on to its values: a shell would set a space behind the only completion
        return [f"{found[0]}={known}" for known in values(found[0], "")] or [f"{found[0]}="]
    return [f"{known}=" for known in found]


@cache
def keys() -> list[str]:
    """List the keys of the configuration, and the settings that any loss has."""
    found = list(_fields())
    for given in registered("loss").values():
        found += [f"loss.{name}" for name in given]
    return sorted(dict.fromkeys(found))


def values(key: str, start: str) -> list[str]:
    """List the values that a key takes, or its default where they are without number."""
    if key == "data.source":
        return data(start)
    if key == "data.root":
        return [path for path in paths(start) if path.endswith(os.sep)]
    field = _fields().get(key)
    if key in NAMED:
        found = list(registered(NAMED[key]))
    elif key == "model.backbone":
        found = [*OWN_BACKBONES, "resnet18", "tf_efficientnet_lite0"]
    elif field is not None:
        found = list(_words(field.annotation)) or [_text(field.default)]
    else:
        loss, _, name = key.partition(".")
        found = sorted({given[name] for given in registered("loss").values() if name in given})
        found = found if loss == "loss" else []
    return [value for value in found if value and value.startswith(start)]


@cache
def _fields() -> Mapping[str, Any]:
    """Return the fields of the configuration by their dotted keys."""
    return {
        f"{section}.{name}": inner
        for section, field in Config.model_fields.items()
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel)
        for name, inner in field.annotation.model_fields.items()
    }


def _words(annotation: Any) -> Iterator[str]:
    """Yield the words that a kind of value knows."""
    if annotation is bool:
        yield from ("true", "false")
    elif get_origin(annotation) is Literal:
        yield from map(str, get_args(annotation))
    elif get_origin(annotation) is Annotated or get_args(annotation):
        for inner in get_args(annotation):
            yield from _words(inner)


def _text(value: Any) -> str:
    return str(value) if isinstance(value, int | float | str) else ""


@contextlib.contextmanager
def words_joined() -> Iterator[None]:
    """Let bash complete ``key=value``, which it hands over as three words and of which it wants the last."""
    given = os.environ.get("COMP_WORDS", "").split("\n")
    place = os.environ.get("COMP_CWORD", "")
    if os.environ.get("_NEARFAR_COMPLETE") != "complete_bash" or not place.isdecimal():
        yield
        return
    words, at, cut = given[: int(place) + 1], int(place), ""
    if at >= 2 and words[-1] == "=":
        words[-2:] = [words[-2] + "="]
    elif at >= 3 and words[-2] == "=":
        words[-3:] = ["".join(words[-3:])]
    else:
        yield
        return
    cut = words[-1].partition("=")[0] + "="
    os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)}
    told = io.StringIO()
    try:
        with contextlib.redirect_stdout(told):
            yield
    finally:
        sys.stdout.write(
            "".join(line.removeprefix(cut) for line in told.getvalue().splitlines(keepends=True))
        )
