"""The table that the section ``data`` names."""

from nearfar.config.sections import Data
from nearfar.data import Table, read_table


def read_source(data: Data, source: str | None = None) -> Table:
    """Read the images that ``data`` names, or another source in the same way.

    Raises:
        DataError: if it cannot be read.
    """
    return read_table(
        source or data.root or data.source,
        classes=data.classes,
        unlabelled=data.unlabelled,
        missing="keep" if data.skip_unreadable else "refuse",
    )
