"""What one process makes of a case, and whether ranks made the same of it."""

from dataclasses import replace

import torch

from nearfar.errors import NearfarError
from ranked_problems import Case, Model, batch, everything, solve

BOUNDS = {torch.float64: 1e-12, torch.float32: 1e-6}
_known: dict[str, dict] = {}


def expected(case: Case) -> dict:
    """What one process makes of it: the same however its rows are cut, but where pairs are listed by rank."""
    key = repr(case if case.labels == "listed" else replace(case, cut=[], settings={}))
    if key not in _known:
        try:
            steps = [everything(case, batch(case, step)) for step in range(case.steps)]
            _known[key] = solve(Model(case), steps)
        except NearfarError as error:
            _known[key] = {"error": str(error)}
    return _known[key]


def scale(alone: dict[str, torch.Tensor], key: str) -> float:
    """What an error is relative to: the largest component; of a number's gradient, which cancels, that of all."""
    every = [value for name, value in alone.items() if name != "value"]
    some = every if alone[key].numel() == 1 and key != "value" else [alone[key]]
    return max(float(value.abs().max()) for value in some)


def check(some: list[Case], ranks: list[dict]) -> None:
    torch.set_num_threads(1)
    wrong = []
    for place, case in enumerate(some):
        alone = expected(case)
        for rank, found in enumerate(ranks):
            if "error" in alone or "error" in found["cases"][place]:
                if alone != found["cases"][place]:
                    wrong.append(f"{case}: rank {rank} has {found['cases'][place]}, one process {alone}")
                continue
            factor = len(ranks) if case.settings.get("gradients") == "sum" else 1
            for key, value in alone.items():
                other = found["cases"][place][key] * (factor if key != "value" else 1)
                bound = BOUNDS[case.dtype] * max(scale(alone, key), 1e-3)
                apart = float((other - value).abs().max())
                if not apart <= bound:
                    wrong.append(f"{case}: rank {rank}, {key} is {apart:.1e} apart")
    assert not wrong, "\n".join(wrong[:20])
