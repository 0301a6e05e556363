"""A property that is computed once for each object: ``functools.cached_property`` without a lock.

Python 3.11 takes a lock whenever one is computed, and a loss computes dozens for each batch.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from functools import cached_property as once
else:

    class once:
        def __init__(self, compute: Callable[[Any], Any]) -> None:
            self._compute = compute
            self.__doc__ = compute.__doc__

        def __set_name__(self, owner: type, name: str) -> None:
            self._name = name

        def __get__(self, of: Any, owner: type | None = None) -> Any:
            if of is None:
                return self
            value = of.__dict__[self._name] = self._compute(of)
            return value
