"""What nearfar raises when the input cannot be used.

    NearfarError (ValueError)
    ├── DataError        a file, a folder, a table or an image
    ├── ConfigError      a key or a value of the configuration
    ├── CheckpointError  a saved model or run that does not fit
    ├── NonFiniteError   NaN or infinity, where nothing can go on
    ├── Told             nothing more to say: the reason was told, here or by another process
    └── MissingExtra     (also ImportError) an optional dependency that is not installed

Each message is one sentence that says what is wrong, what was expected and what to do; the command line
prints it alone, without a traceback.
"""

import importlib
from difflib import get_close_matches
from types import ModuleType

from nearfar.elsewhere import ELSEWHERE, plain

LONGEST = 100
"""Characters of a word that is looked up."""


class NearfarError(ValueError):
    """Input that nearfar cannot use."""


class DataError(NearfarError):
    """A file, folder, table or image that cannot be used."""


class ConfigError(NearfarError):
    """A configuration key or value that cannot be used."""


class CheckpointError(NearfarError):
    """A saved model or run that does not fit what is asked of it."""


class NonFiniteError(NearfarError):
    """NaN or infinity, where nothing can go on."""


class Told(NearfarError):
    """Ends a process for a reason that was told already, here or by another process of the same run."""


class MissingExtra(NearfarError, ImportError):
    """An optional dependency that is not installed."""


def require(module: str, extra: str) -> ModuleType:
    """Import ``module``, or say which extra of nearfar brings it.

    Raises:
        MissingExtra: if the module is not installed.
    """
    package = module.split(".", maxsplit=1)[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".", maxsplit=1)[0] != package:
            raise
        raise MissingExtra(
            f"this needs {package}, which is not installed; run: pip install 'nearfar[{extra}]'"
        ) from error


def shortened(value: object, most: int = 100) -> str:
    """Return a value as it is written, of a long one the beginning: for a message."""
    try:
        text = str(value).lower() if isinstance(value, bool) else repr(value)
    except (RecursionError, ValueError):  # nested too deep, or a number of more digits than Python writes
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}…"


def suggest(word: object, known: list[str]) -> str:
    """Return " Did you mean '…'?" for the known word nearest to ``word``, or "" when none is near.

    One that is written otherwise, or that others use for the same thing, comes before one that looks alike.
    """
    text = str(word)[:LONGEST]
    close = [name for name in known if plain(name) == plain(text)] or [
        name for name in known if name == ELSEWHERE.get(plain(text))
    ]
    if not close:
        near = {plain(name): name for name in known}
        close = get_close_matches(text, known, n=1) or [
            near[one] for one in get_close_matches(plain(text), list(near), n=1)
        ]
    return f" Did you mean {close[0]!r}?" if close else ""
