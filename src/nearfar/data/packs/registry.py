"""What the packs are: one frozen definition each.

A definition never changes under its version: class list, split seed and the checksum of the finished pictures
are part of it, so that two people who name a pack compare on the same images.
"""

from collections.abc import Callable
from dataclasses import dataclass

from nearfar.errors import DataError, suggest

Progress = Callable[[int, int, str], None]
"""Called with what is done, what there is to do, and a word for what is being done."""


@dataclass(frozen=True)
class Pack:
    """A set of real images that nearfar can make from ordinary packages."""

    name: str
    title: str
    licence: str
    source: str
    classes: int
    images: int
    size: int
    flip: bool
    """Whether a mirrored image is still the same class: true of furniture, false of writing."""
    needs: tuple[str, ...]
    version: str
    checksum: str
    """sha256 over names and pixels, see `nearfar.data.packs.store.checksum`."""
    builder: str
    """Module whose ``build(pack, folder, progress)`` makes the images: `objects` of this folder, or one of
    `packs/` in the source repository."""

    @property
    def folder(self) -> str:
        """Name of its folder in the cache."""
        return f"{self.name}-{self.version}"


_sweethome = "Debian package sweethome3d-furniture 1.8-1"

_packs = (
    Pack(
        name="objects",
        title="175 three-dimensional models of things, 8 views each, drawn small",
        licence="CC0-1.0 (public domain)",
        source=f"library BlendSwap-CC-0 of the {_sweethome}; the images ship inside nearfar",
        classes=175,
        images=1400,
        size=48,
        flip=True,
        needs=(),
        version="1",
        checksum="9b62528133d733412e68ad357d6e456c322d6ca57eb8adc754790ea2b7e90994",
        builder="objects",
    ),
    Pack(
        name="emoji",
        title="the same emoji drawn by eight vendors",
        licence="Apache-2.0, MIT, CC-BY-4.0, CC-BY-SA-4.0, by vendor",
        source="npm packages @iconify-json/* and @lobehub/fluent-emoji-3d",
        classes=1259,
        images=8375,
        size=64,
        flip=False,
        needs=("npm", "resvg-py"),
        version="1",
        checksum="d81bd7cf890fc4d4fddf390c0898c43b54627629f0e6127acdcd781f08af17f8",
        builder="emoji",
    ),
    Pack(
        name="furniture",
        title="820 three-dimensional models of furniture and things of the house, 12 views each",
        licence="CC0-1.0 and CC-BY-3.0, by model (see CREDITS.txt of the pack)",
        source=f"the {_sweethome}",
        classes=820,
        images=9840,
        size=96,
        flip=True,
        needs=("apt-get", "dpkg-deb"),
        version="1",
        checksum="0e8fe797353ea8e7c0c8bcc32aa57b5a4044e86246f00af21b505b6536a66c48",
        builder="furniture",
    ),
    Pack(
        name="furniture-hard",
        title="the same 820 models on clutter, in coloured light, small or large, 6 views each",
        licence="CC0-1.0 and CC-BY-3.0, by model (see CREDITS.txt of the pack)",
        source=f"the {_sweethome}",
        classes=820,
        images=4920,
        size=64,
        flip=True,
        needs=("apt-get", "dpkg-deb"),
        version="1",
        checksum="4b0a7ebcfc4b98d48d32b2c918d8a5b5e6b56a201d1f808dfe30447284353438",
        builder="furniture",
    ),
    Pack(
        name="kanji",
        title="Japanese characters in eighteen typefaces: print, brush, handwriting, bitmaps",
        licence="by typeface (see CREDITS.txt of the pack)",
        source="Debian font packages, versions of Debian 12",
        classes=1000,
        images=17999,
        size=64,
        flip=False,
        needs=("apt-get", "dpkg-deb", "fonttools"),
        version="1",
        checksum="e9e1352bd06f8613c88d8833843a26f8c59c06e6a158f7ede8172813ca00f605",
        builder="kanji",
    ),
)


def names() -> list[str]:
    """Names of the packs, the smallest first."""
    return [pack.name for pack in _packs]


def describe(name: str) -> Pack:
    """The definition of a pack; nothing is built or downloaded.

    Raises:
        DataError: if no pack has that name.
    """
    for pack in _packs:
        if pack.name == name:
            return pack
    raise DataError(
        f"there is no pack named {name!r}.{suggest(name, names())} The packs are: {', '.join(names())}."
    )
