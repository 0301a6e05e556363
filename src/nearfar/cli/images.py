"""The command that turns images into embeddings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nearfar.cli import completion
from nearfar.cli.app import app
from nearfar.cli.show import Steps, print_json, say
from nearfar.errors import ConfigError, DataError, require

if TYPE_CHECKING:
    import numpy as np

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
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Embed images: one row of unit length for each, beside its path."""
    if output.suffix not in SUFFIXES:
        raise ConfigError(f"{output}: unknown kind of file; write to {' or '.join(SUFFIXES)}.")
    if not output.absolute().parent.is_dir():
        raise DataError(f"{output.parent}: there is no such folder to write to; make it first.")
    if output.suffix == ".parquet":
        require("pyarrow", "train")
    import nearfar
    from nearfar.train.precision import choose_device

    files = _images(paths)
    model = nearfar.load(run).to(choose_device("auto"))
    with Steps("embed") as steps:
        embeddings = model.encode(files, progress=steps)
    _write(output, files, embeddings.numpy())
    if as_json:
        print_json({"file": output, "images": len(files), "dim": model.dim, "model": model.fingerprint()})
    else:
        say(f"{len(files):,} embeddings of {model.dim} dimensions in {output}")


def _images(paths: list[Path]) -> list[str]:
    """List the image files among and below ``paths``, sorted within each."""
    from nearfar.data.folders import IMAGE_ENDINGS

    found: list[str] = []
    for path in paths:
        if path.is_dir():
            inside = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_ENDINGS)
            if not inside:
                raise DataError(f"{path} has no images in it; give image files or folders of them.")
            found.extend(str(file) for file in inside if not file.name.startswith("."))
        elif path.is_file():
            found.append(str(path))
        else:
            raise DataError(f"{path}: there is no such file or folder.")
    return found


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
        pq.write_table(pa.table({"path": files, "embedding": rows}), buffer)
    write_atomically(output, buffer.getvalue())
