"""What the library logs and warns of while a command runs."""

import logging
import sys
import warnings

from nearfar.cli.failures import safe


class Notices(logging.Handler):
    """While a command runs, prints what the library logs and warns of, each notice once.

    Args:
        debug: print also what is of interest to a developer alone.
    """

    def __init__(self, debug: bool) -> None:
        super().__init__(logging.INFO if debug else logging.WARNING)
        self.debug = debug
        self._told: set[str] = set()

    def __enter__(self) -> "Notices":
        root = logging.getLogger()
        self._before = root.level, warnings.showwarning
        root.addHandler(self)
        root.setLevel(min(root.level, self.level))
        if not self.debug:
            warnings.showwarning = self.show_warning
        return self

    def __exit__(self, *_: object) -> None:
        root = logging.getLogger()
        root.removeHandler(self)
        level, warnings.showwarning = self._before
        root.setLevel(level)

    def emit(self, record: logging.LogRecord) -> None:
        self._tell(record.getMessage())

    def show_warning(self, message: Warning | str, *_: object, **__: object) -> None:
        self._tell(f"nearfar: {message}")

    def _tell(self, text: str) -> None:
        if text not in self._told:
            self._told.add(text)
            print(safe(text), file=sys.stderr)
