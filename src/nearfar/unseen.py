"""Settings are checked where a loss is created: its formula is asked to look at nothing.

A formula, or a mining rule, checks its settings before it looks at the pairs. Called on these it goes as far.
"""

from collections.abc import Callable
from typing import Any, NoReturn

from nearfar.errors import NearfarError
from nearfar.pairs import Pairs


class Looked(Exception):
    """The settings are through: the pairs were looked at."""


class Unseen(Pairs):
    """Pairs of which nothing is known."""

    def __init__(self) -> None:
        """Hold nothing."""

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("__"):
            return object.__getattribute__(self, name)
        raise Looked

    def __len__(self) -> NoReturn:
        raise Looked


def check_settings(function: Callable[..., Any], *more: Any, **settings: Any) -> None:
    """Let a formula or a mining rule refuse its settings.

    Raises:
        NearfarError: if it does, or cannot compute with them.
    """
    try:
        function(Unseen(), *more, **settings)
    except Looked:
        return
    except (OverflowError, ZeroDivisionError) as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        raise NearfarError(f"{function.__name__} cannot compute with {shown}: {error}.") from error
