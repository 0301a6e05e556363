"""What may be said anew of a finished run: where its pictures are, and how they are read."""

from collections.abc import Sequence

from nearfar.errors import ConfigError, suggest
from nearfar.printable import quoted

KEYS = ("data.source", "data.root", "data.skip_unreadable", "data.workers", "data.memory_limit")


def only_pictures(overrides: Sequence[str]) -> list[str]:
    """Return the overrides if they are of the pictures alone; a new source takes the place of a root."""
    keys = [text.partition("=")[0].strip() for text in overrides]
    for key, text in zip(keys, overrides, strict=True):
        if "=" not in text:
            raise ConfigError(
                f"{quoted(text)} is not an override; write key=value, as in data.source=photos."
            )
        if key not in KEYS:
            raise ConfigError(
                f"{quoted(key)} cannot be said anew of a finished run: it would be another run. What can: "
                f"{', '.join(KEYS)}.{suggest(key, list(KEYS))}"
            )
    moved = "data.source" in keys and "data.root" not in keys
    return [*overrides, "data.root="] if moved else list(overrides)
