"""The pictures of a run, all of them looked at before the first step."""

from nearfar.config import Config
from nearfar.data import Images, Table, Unreadable, find_unreadable
from nearfar.data.decode import processors
from nearfar.data.images import UnreadableImages, kept_rows
from nearfar.distributed import by_rank_0, local_world_size
from nearfar.models import Embedder


def read_images(
    config: Config, train: Table, validation: Table | None, test: Table, embedder: Embedder
) -> tuple[Images, Images | None, Table]:
    """Return the training and the validation images, and the test table; all broken ones are told now.

    Raises:
        UnreadableImages: if there are any and ``data.skip_unreadable`` is off.
    """
    images: list[Images | None] = []
    broken: list[Unreadable] = []
    for table in (train, validation):
        try:
            images.append(None if table is None else _images(config, table, embedder))
        except UnreadableImages as error:
            broken += error.unreadable
    enough = 2 * embedder.preprocess.resize
    unseen = by_rank_0(lambda: find_unreadable(test, at_least=enough))
    if unseen and config.data.skip_unreadable:
        test = test.select(kept_rows(test, unseen))
    else:
        broken += unseen
    if broken:
        raise UnreadableImages(
            broken, len(train) + len(test) + (0 if validation is None else len(validation))
        )
    learned, held_out = images
    assert learned is not None
    return learned, held_out, test


def _images(config: Config, table: Table, embedder: Embedder) -> Images:
    wanted, workers = config.data, config.data.workers
    if workers == "auto" and local_world_size() > 1:  # the processors are shared
        workers = max(1, min(processors(), 16) // local_world_size())
    return Images(
        table,
        embedder.preprocess,
        memory_limit=int(wanted.memory_limit),
        workers=workers,
        skip_unreadable=wanted.skip_unreadable,
    )
