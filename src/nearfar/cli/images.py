"""The command that turns images into embeddings."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli import completion
from nearfar.cli.root import app
from nearfar.cli.show import Steps, print_json, say
from nearfar.errors import ConfigError, DataError, require
from nearfar.printable import printable

if TYPE_CHECKING:
    import numpy as np

    from nearfar.data import Table

SUFFIXES = (".npz", ".parquet")


@app.command()
def embed(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN",
            help="Folder of a run or a model.",
            show_default=False,
            autocompletion=completion.runs,
        ),
    ],
    paths: Annotated[
        list[Path],
        typer.Argument(
            metavar="PATHS...",
            help="Images, or folders of images.",
            show_default=False,
            autocompletion=completion.paths,
        ),
    ],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Where to write: .npz or .parquet.", show_default=False)
    ],
    skip_unreadable: Annotated[
        bool, typer.Option("--skip-unreadable", help="Go on without broken images.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Embed images: one row of unit length for each, beside its path."""
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"{output}: unknown kind of file; write to {' or '.join(SUFFIXES)}.")
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output.parent}: there is no such folder to write to; make it first.")
    if output.suffix == ".parquet":
        require("pyarrow", "train")
    _check_writable(output)
    import nearfar
    from nearfar.data import UnreadableImage
    from nearfar.data.images import without_unreadable
    from nearfar.train.precision import choose_device

    files = _images(paths)
    model = nearfar.load(run).to(choose_device("auto"))
    table, advice = _table(files), "give --skip-unreadable"
    if skip_unreadable:
        table = without_unreadable(table, skip=True, at_least=2 * model.preprocess.resize)
    try:
        with Steps("embed") as steps:
            embeddings = model.encode(table, progress=steps)
    except UnreadableImage:
        without_unreadable(table, skip=False, advice=advice, at_least=2 * model.preprocess.resize)
        raise
    files = table.path.tolist()
    _write(output, files, embeddings.numpy())
    if as_json:
        print_json({"file": output, "images": len(files), "dim": model.dim, "model": model.fingerprint()})
    else:
        say(f"{len(files):,} embeddings of {model.dim} dimensions in {output}")


def _check_writable(output: Path) -> None:
    """Refuse a place where nothing can be written, before the work and not after it."""
    if output.is_dir():
        raise DataError(f"{output} is a folder; give the name of a file in it.")
    trial = output.with_name(output.name + ".tmp")  # where the file is written before it takes its place
    try:
        trial.open("ab").close()
        trial.unlink()
    except OSError as error:
        raise DataError(f"{output} cannot be written ({error.strerror}); give another place.") from error


def _images(paths: list[Path]) -> list[str]:
    """List the image files among and below ``paths``, sorted within each; what is left out is told."""
    from nearfar.data.listing import pictures_under

    found: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = pictures_under(path)
            for sentence in inside.sentences():
                print(f"{printable(path)}: {sentence}.", file=sys.stderr)
            if not inside.pictures:
                raise DataError(f"{path} has no images in it; give image files or folders of them.")
            found += inside.pictures
        elif path.is_file():
            found.append(str(path))
        else:
            raise DataError(f"{path}: there is no such file or folder.")
    return found


def _table(files: list[str]) -> "Table":
    """Return files as a table of one class."""
    import numpy as np

    from nearfar.data import Table

    return Table(np.array(files, dtype=object), np.zeros(len(files), np.int64), ("",))


def _write(output: Path, files: list[str], embeddings: "np.ndarray") -> None:
    import io

    import numpy as np

    from nearfar.files import write_atomically

    buffer = io.BytesIO()
    if output.suffix == ".npz":
        np.savez(buffer, path=np.array(files), embedding=embeddings)
    else:
        import pyarrow as pa
        import pyarrow.parquet as pq

        rows = pa.FixedSizeListArray.from_arrays(pa.array(embeddings.ravel()), embeddings.shape[1])
        pq.write_table(pa.table({"path": [printable(file) for file in files], "embedding": rows}), buffer)
    write_atomically(output, buffer.getvalue())
