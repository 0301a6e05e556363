"""From the definition of a Caffe net and its solver to a recipe that nearfar trains.

recipe = nearfar.caffe.recipe.import_net("train_val.prototxt", "solver.prototxt")
print(recipe.toml)
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from nearfar.caffe.faults import faults
from nearfar.caffe.graph import open_net, read_graph, refuse_binary
from nearfar.caffe.prototxt import read
from nearfar.caffe.recipe_data import import_data, import_model
from nearfar.caffe.recipe_loss import import_loss
from nearfar.caffe.recipe_solver import import_solver
from nearfar.caffe.solver import Solver
from nearfar.caffe.table import Draft, Row
from nearfar.config import Config
from nearfar.config.fit import fit
from nearfar.config.loss_settings import check_loss
from nearfar.config.sentences import sentence
from nearfar.toml import to_toml

_ORDER = ("data", "augment", "model", "loss", "batch", "optimizer", "train")


@dataclass(frozen=True)
class Recipe:
    """What an import came to.

    Attributes:
        toml: the recipe, with a header that says what it came from.
        rows: found, becomes, differs.
        faults: what is wrong in the definition although Caffe ran it, a sentence each.
    """

    toml: str
    rows: tuple[Row, ...]
    faults: tuple[str, ...]


def import_net(net: str | Path, solver: str | Path | None = None, *, name: str = "FILE.toml") -> Recipe:
    """Read a net, and its solver if there is one, and write the recipe.

    Args:
        net: path of the definition; its training phase is read. A part of one will do.
        solver: path of the solver.
        name: of the file that the recipe goes to, for the command in its header.

    Raises:
        PrototxtError: if a text cannot be read, with file, line and column.
        NetError: if a file is none of its kind, or the net has no loss that nearfar knows from Caffe.
        ConfigError: if a value is one that nearfar cannot train with.
    """
    message = open_net(net)
    graph = read_graph(message, lenient=True)
    settings = None if solver is None else _read_solver(solver)
    draft = Draft()
    reader = import_loss(graph, draft)
    import_data(graph, reader, draft)
    import_model(graph, reader, draft)
    import_solver(settings, draft)
    sections = draft.sections if settings is not None else fit(draft.sections)
    values = {key: sections[key] for key in _ORDER if key in sections}
    check(values)
    sources = [Path(path).name for path in (net, solver) if path is not None]
    return Recipe(_header(sources, name) + to_toml(values), tuple(draft.rows), tuple(faults(graph)))


def check(values: dict[str, Any]) -> None:
    """Raise where the recipe is one that nearfar would refuse.

    Raises:
        ConfigError: with the key of the recipe.
    """
    try:
        config = Config.model_validate(values)
    except ValidationError as error:
        raise sentence(error, Config) from None
    check_loss(config.loss)


def _read_solver(path: str | Path) -> Solver:
    refuse_binary(path)
    return Solver.of(read(path))


def _header(sources: list[str], name: str) -> str:
    return (
        f"# from:     {' and '.join(sources)}, by nearfar caffe import\n"
        f"# command:  nearfar train {name} data.source=PICTURES\n"
        "# What differs from Caffe: docs/from-caffe.md\n\n"
    )
