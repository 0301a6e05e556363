"""What an import says: found in the definition, becomes in the recipe, differs in what it does."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from nearfar.toml import format_value


class Row(NamedTuple):
    """One line of the table.

    Attributes:
        found: what the definition says.
        becomes: the keys of the recipe, or "-".
        differs: what nearfar does otherwise, or "".
    """

    found: str
    becomes: str
    differs: str = ""


@dataclass
class Draft:
    """A recipe while it is written.

    Attributes:
        sections: of the TOML, by name.
        rows: of the table, in order.
    """

    sections: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def say(self, found: str, becomes: str = "-", differs: str = "") -> None:
        """Add a row that sets nothing."""
        self.rows.append(Row(found, becomes, differs))

    def set(self, found: str, section: str, values: Mapping[str, Any], differs: str = "") -> None:
        """Set keys of a section and add the row that says so."""
        self.sections.setdefault(section, {}).update(values)
        keys = ", ".join(f"{section}.{key} = {format_value(value)}" for key, value in values.items())
        self.rows.append(Row(found, keys, differs))


def plain(number: float) -> int | float:
    """Return a whole number as int, so that -0.0 and 5.0 read as people write them."""
    return int(number) if float(number).is_integer() else number
