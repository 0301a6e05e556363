"""The command that shows what a model finds hard among its training images."""

from typing import Annotated, Any

import typer

from nearfar.cli.given import Pictures, Run, fetch
from nearfar.cli.root import app
from nearfar.cli.show import Steps, print_grid, print_json, say


@app.command()
def mine(
    run: Run,
    most: Annotated[
        int, typer.Option(help="Embed at most this many images, some of each class.", min=4)
    ] = 5000,
    margin: Annotated[
        float, typer.Option(help="Similarity by which a semi-hard negative falls short, at most.")
    ] = 0.2,
    guard: Annotated[
        float,
        typer.Option(help="Suspect a negative that is nearer than this share of all pairs of one class."),
    ] = 0.95,
    overrides: Pictures = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show hard negatives, confused classes and suspect labels among the training images; write mine.html."""
    import torch

    import nearfar
    from nearfar import offline
    from nearfar.report.decoding import Small, look
    from nearfar.report.mined import summarise_mined, told_in_lines, write_mined
    from nearfar.report.opened import finished_config, open_run
    from nearfar.train.precision import choose_device

    config = finished_config(run, overrides or [])
    offline.check_settings(margin, guard)
    fetch(config.data.source)
    table = open_run(run, overrides or [], command="mine").tables.train
    rows = offline.subset(table.label, most, seed=config.train.seed)
    small = Small()
    with Steps("embed") as steps:
        model = nearfar.load(run).to(choose_device("auto"))
        looked = look(
            table.select(rows),
            [(model, True)],
            skip_unreadable=config.data.skip_unreadable,
            small=small,
            progress=steps,
        )
    shown, embeddings = looked.table, torch.from_numpy(looked.embeddings[0])
    rows = rows[looked.rows]
    mined = offline.mine(
        embeddings, torch.from_numpy(shown.label), ids=torch.from_numpy(rows), margin=margin, guard=guard
    )
    summary: dict[str, Any] = {"run": str(run), "images_in_all": len(table), **summarise_mined(mined, shown)}
    page = write_mined(
        mined, shown, summary, run, source=f"{table.name or table.source}, {run.name}", small=small
    )
    if as_json:
        print_json({**summary, "page": str(page)})
        return
    part = "" if len(shown) == len(table) else f" (of {len(table):,})"
    pictures = summary["pictures"]
    say(
        f"{len(shown):,} training images{part} of {summary['classes']:,} classes: "
        f"{pictures['hard']:,} have a hard negative, {pictures['semi_hard']:,} a semi-hard one at most.\n"
    )
    print_grid(["triplets", "", "share"], told_in_lines(summary), right=(1, 2))
    if summary["confusions"]:
        say("\nConfused most, by images with a hard negative in the other class:")
        print_grid(
            ["classes", "images"],
            [
                (" and ".join(each["classes"]), f"{each['count']} of {each['of']}")
                for each in summary["confusions"][:8]
            ],
        )
    say(f"\n{_suspects(summary['suspects'])}\n\nThe page: {page.resolve()}")


def _suspects(found: list[dict[str, Any]]) -> str:
    if not found:
        return "No pair of images looks like one thing under two labels."
    pairs = "pair of images looks" if len(found) == 1 else "pairs of images look"
    first = found[0]
    return (
        f"{len(found):,} {pairs} like one thing under two labels; the most alike: "
        f"{first['images'][0]} ({first['classes'][0]}) and {first['images'][1]} ({first['classes'][1]})."
    )
