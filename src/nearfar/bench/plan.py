"""What to measure, checked before anything runs."""

from dataclasses import dataclass

from nearfar.bench.problems import PROBLEMS
from nearfar.errors import ConfigError, MissingExtra, require, suggest
from nearfar.similarity import check_backend

SMALL = (1024, 4096)


@dataclass(frozen=True)
class Plan:
    """Every loss is measured at every size.

    Attributes:
        losses: names of ``PROBLEMS``.
        n: batch sizes, in rows.
        dims: dimensions of the embeddings.
        repeats: rounds whose median is reported.
        backend: what computes our losses.
        peer: whether pytorch-metric-learning takes part.
        limit: GiB that a loss may take; None for 9/10 of what is free when it starts.
        patience: seconds after which a cell gets no further round.
        threads: for torch; None for as many as it takes by itself.
    """

    losses: tuple[str, ...] = tuple(PROBLEMS)
    n: tuple[int, ...] = SMALL
    dims: tuple[int, ...] = (128, 512)
    repeats: int = 5
    backend: str = "auto"
    peer: bool = True
    limit: float | None = None
    patience: float = 300.0
    threads: int | None = None

    def check(self) -> None:
        """Refuse what cannot be measured.

        Raises:
            ConfigError: if a loss is unknown or a number is out of range.
            MissingExtra: if the peer is asked for and not installed.
        """
        for name in self.losses:
            if name not in PROBLEMS:
                known = list(PROBLEMS)
                raise ConfigError(
                    f"the benchmark has no loss named {name!r}.{suggest(name, known)} "
                    f"It measures {', '.join(known)}."
                )
        for n in self.n:
            if n < 8 or n % 4:
                raise ConfigError(f"n = {n} cannot be cut into classes of 4; give a multiple of 4 from 8 on.")
        for name, least in (("dim", min(self.dims)), ("repeats", self.repeats), ("threads", self.threads)):
            if least is not None and least < 1:
                raise ConfigError(f"{name} must be 1 or more; got {least}.")
        check_backend(self.backend)
        if self.peer:
            try:
                require("pytorch_metric_learning", "bench")
            except MissingExtra as error:
                raise MissingExtra(
                    "the comparison needs pytorch-metric-learning, which is not installed; "
                    "run: pip install 'nearfar[bench]', or measure without it: --no-peer"
                ) from error
