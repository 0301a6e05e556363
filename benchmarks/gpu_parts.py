"""What benchmarks/gpu.py checks and times: a part gives the rows of a table that its docstring is about."""

import statistics
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import small
import torch
from torch import Tensor

import nearfar
from nearfar.losses.parts.registry import has_proxies

SIZES, DIM = (32, 128, 512, 1024, 4096, 16_384), 128
GRAPHED = ("supcon", "contrastive", "multi_similarity", "circle", "arcface", "proxy_anchor")
Row = dict[str, Any]


@dataclass(frozen=True)
class Asked:
    """Where to measure, and how long.

    Attributes:
        quick: fewer and smaller sizes, to see that the script runs.
        seconds: for each cell of a table.
    """

    device: torch.device
    quick: bool
    seconds: float

    @property
    def cuda(self) -> bool:
        """Whether the device works on by itself, and has clocks of its own."""
        return self.device.type == "cuda"

    def wait(self) -> None:
        """Return when the device has done all that it was told."""
        if self.cuda:
            torch.cuda.synchronize(self.device)


def attempt(row: Row, work: Callable[[], Row]) -> Row:
    """Return a row with what the work found, or with what went wrong."""
    try:
        return {**row, **work()}
    except Exception as error:  # whatever it is, the other rows are wanted
        return {**row, "failed": in_words(error)}
    finally:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def in_words(error: Exception) -> str:
    """Return the first line of what an error says."""
    said = str(error).strip().splitlines() or [""]
    return f"{type(error).__name__}: {said[0][:200]}"


def create(name: str, n: int, device: torch.device | str, **settings: Any) -> nearfar.losses.Loss:
    """Return a loss with the same weights every time; a class for each four rows."""
    torch.manual_seed(0)
    classes = {"classes": n // 4, "dim": DIM} if has_proxies(name) else {}
    return nearfar.losses.create(name, **classes, **settings).to(device)


def learn(step: small.Step, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return value and gradient."""
    x = x.detach().clone().requires_grad_()
    value = step(x, y)
    value.backward()
    assert x.grad is not None
    return value.detach(), x.grad


def errors(asked: Asked) -> Iterator[Row]:
    """Errors of float32 on the device, relative to float64 on the CPU (gradient: to its largest number)."""
    sizes = (32,) if asked.quick else (64, 2048)
    for name in nearfar.losses.names():
        for n in sizes:
            if n > sizes[0] and name not in {case.name for case in small.CASES.values()}:
                continue
            for backend in ("auto", "dense", "tiled"):
                row = {"loss": name, "n": n, "backend": backend}
                yield attempt(row, partial(error_of, asked, **row))


@cache
def exact(loss: str, n: int) -> tuple[Tensor, Tensor]:
    """Return value and gradient in float64, on the CPU."""
    x, y = small.rows(n, DIM)
    return learn(create(loss, n, "cpu").double(), x.double(), y)


def error_of(asked: Asked, loss: str, n: int, backend: str) -> Row:
    """Return the errors of one loss."""
    value, gradient = exact(loss, n)
    x, y = (given.to(asked.device) for given in small.rows(n, DIM))
    found, others = learn(create(loss, n, asked.device, backend=backend), x, y)
    return {"value": apart(found, value), "gradient": apart(others, gradient)}


def apart(found: Tensor, exact: Tensor) -> float:
    """Return the largest error, over the largest number that should be."""
    exact = exact.to(found.device, torch.float64)
    return float((found.double() - exact).abs().max() / exact.abs().max().clamp(min=1e-30))


def times(asked: Asked) -> Iterator[Row]:
    """Milliseconds of forward and backward, medians; MiB above what is there before; 128 dimensions."""
    for n in SIZES[:2] if asked.quick else SIZES:
        x, y = (given.to(asked.device) for given in small.rows(n, DIM))
        for name in small.CASES:
            row = {"loss": name, "n": n}
            try:
                steps = small.competitors(name, n, DIM, compiled=False, device=asked.device)
            except Exception as error:
                yield {**row, "failed": in_words(error)}
                continue
            for who, step in steps.items():
                yield attempt({**row, "who": who}, partial(clock, asked, partial(learn, step, x, y)))


def clock(asked: Asked, work: Callable[[], object]) -> Row:
    """Return the median time of some work, and the memory that it takes."""
    for _ in range(3):
        work()
    asked.wait()
    start = time.perf_counter()
    work()
    asked.wait()
    first = time.perf_counter() - start
    each = [once(asked, work) for _ in range(max(5, min(200, int(asked.seconds / first))))]
    row: Row = {"ms": statistics.median(each)}
    if asked.cuda:
        before = torch.cuda.memory_allocated(asked.device)
        torch.cuda.reset_peak_memory_stats(asked.device)
        work()
        row["MiB"] = (torch.cuda.max_memory_allocated(asked.device) - before) / 2**20
    return row


def once(asked: Asked, work: Callable[[], object]) -> float:
    """Return the milliseconds of one turn, by the clock of the device where it has one."""
    if not asked.cuda:
        start = time.perf_counter()
        work()
        return 1e3 * (time.perf_counter() - start)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    work()
    end.record()
    asked.wait()
    return begin.elapsed_time(end)


def waits(asked: Asked) -> Iterator[Row]:
    """Whether the host waits for the device in forward and backward of 128 rows, from the second batch on."""
    yield from (attempt({"loss": name}, partial(wait_of, asked, name)) for name in nearfar.losses.names())


def wait_of(asked: Asked, name: str) -> Row:
    """Return whether one loss waits, and at which line."""
    if not asked.cuda:
        return {"waits": "only a CUDA device tells"}
    loss, (x, y) = create(name, 128, asked.device), (g.to(asked.device) for g in small.rows(128, DIM))
    learn(loss, x, y)
    asked.wait()
    torch.cuda.set_sync_debug_mode("error")
    try:
        learn(loss, x, y)
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return {"waits": "yes", "at": place_of(error)}
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return {"waits": "no"}


def place_of(error: BaseException) -> str:
    """Return the innermost line of nearfar that an error went through; none for one of the backward pass."""
    source = Path(nearfar.__file__).parent
    files = [(Path(frame.filename), frame.lineno) for frame in traceback.extract_tb(error.__traceback__)]
    own = [f"{file.relative_to(source)}:{line}" for file, line in files if file.is_relative_to(source)]
    return own[-1] if own else ""


def graphs(asked: Asked) -> Iterator[Row]:
    """A batch of 128 rows captured with its gradient: error of a replay on another batch, and times in ms."""
    yield from (attempt({"loss": name}, partial(graph_of, asked, name)) for name in GRAPHED)


def graph_of(asked: Asked, name: str) -> Row:
    """Return how far a replay is from the plain call, and how long both take."""
    if not asked.cuda:
        return {"replay, ms": "only a CUDA device captures"}
    loss, (x, y) = create(name, 128, asked.device), (g.to(asked.device) for g in small.rows(128, DIM))
    other = x.roll(1, 1)
    value, gradient = learn(loss, other, y)
    plain = clock(asked, partial(learn, loss, x, y))["ms"]
    given, stream = x.clone().requires_grad_(), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(loss(given, y), given)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = loss(given, y)
        (slope,) = torch.autograd.grad(result, given)
    with torch.no_grad():
        given.copy_(other)
    graph.replay()
    asked.wait()
    replayed = clock(asked, graph.replay)["ms"]
    return {
        "value": apart(result.detach(), value),
        "gradient": apart(slope, gradient),
        "ms": plain,
        "replay, ms": replayed,
    }


def evaluation(asked: Asked) -> Iterator[Row]:
    """Seconds of exact retrieval, all rows queries against all others; 128 dimensions, 100 rows a class."""
    n = 2000 if asked.quick else 100_000

    def work() -> Row:
        generator = torch.Generator().manual_seed(0)
        y = torch.arange(n) % (n // 100)
        centres = torch.randn(n // 100, DIM, generator=generator)
        x = (centres[y] + 2.0 * torch.randn(n, DIM, generator=generator)).to(asked.device)
        start = time.perf_counter()
        found = nearfar.evaluate.retrieval(x, y)
        seconds = time.perf_counter() - start
        return {"s": seconds, "recall@1": found.recall_at_k[1], "MAP@R": found.map_at_r}

    yield attempt({"n": n}, work)


def training(asked: Asked) -> Iterator[Row]:
    """Milliseconds of a step of nearfar/small (64 px, multi_similarity, AdamW), as it is and compiled."""
    for how in ("plain", "compiled"):
        yield attempt({"step": how, "n": 32 if asked.quick else 256}, partial(step_of, asked, how))


def step_of(asked: Asked, how: str) -> Row:
    """Return the time of one step."""
    torch.manual_seed(0)
    n = 32 if asked.quick else 256
    network = nearfar.models.Embedder("nearfar/small", dim=DIM, size=64).to(asked.device)
    loss = create("multi_similarity", n, asked.device, mining="multi_similarity")
    optimizer = torch.optim.AdamW(network.parameters())
    images = torch.rand(n, 3, 64, 64, device=asked.device)
    labels = torch.arange(n, device=asked.device) // 4

    def whole(images: Tensor, labels: Tensor) -> Tensor:
        return loss(network(images), labels)

    compute = (
        whole if how == "plain" else torch.compile(whole, backend="eager" if asked.quick else "inductor")
    )

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(asked.device.type, torch.bfloat16, enabled=asked.cuda):
            value = compute(images, labels)
        value.backward()
        optimizer.step()

    return clock(asked, step)


PARTS: dict[str, Callable[[Asked], Iterator[Row]]] = {
    part.__name__: part for part in (errors, times, waits, graphs, evaluation, training)
}
