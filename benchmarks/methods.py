"""Ten losses with the same budget, with and without a memory: which one helps on unseen classes?

    python benchmarks/methods.py --packs emoji furniture-hard --seeds 1 2 3

Every run is a folder in runs/methods. On one pack all have the same network at the start (on emoji from
nothing; on furniture-hard pretrained, since so few steps from nothing teach nothing there), the same batches
and the same number of steps; settings are the papers' and none is tuned. Only when the memory begins was
chosen, on validation classes with one loss: earlier, while the network still changes fast, it does harm.
Fine-tuned at these rates three losses collapse to a point; they are trained at lower ones as well.
Finished runs are kept and an interrupted one resumes, so several of these may fill it side by side
(--part 1/2, --part 2/2). The page is what ``nearfar compare`` makes of the runs of each pack.
"""

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nearfar.cli.app import run as command
from nearfar.config import Config
from nearfar.report.compare import read_runs
from nearfar.train import train

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Budget:
    """What each training on a pack may do: less than a minute on one core.

    Attributes:
        recipe: that it begins with.
        settings: that differ from it.
        memory: of the trainings that have one.
        slower: further trainings, of losses that the recipe's rates of learning are too high for.
    """

    recipe: str
    settings: tuple[str, ...]
    memory: tuple[str, ...]
    slower: tuple[str, ...] = ()


BUDGETS = {
    "emoji": Budget(
        "emoji-scratch",
        ("model.size=32", "train.steps=420"),
        ("memory.size=2048", "memory.start_after=320"),
    ),
    "furniture-hard": Budget(
        "furniture-hard-finetune",
        ("model.size=48", "train.steps=140"),
        ("memory.size=1024", "memory.start_after=105"),
        ("triplet", "proxy_anchor", "arcface"),
    ),
}
PAIRS = {
    "contrastive": ("loss.positive_margin=1.0", "loss.negative_margin=0.5"),
    "triplet": ("loss.margin=0.2", "loss.mining=hard"),
    "multi_similarity": ("loss.beta=40.0", "loss.mining=multi_similarity"),
    "npair_mined": ("loss.mining={name='relative', positive_method='all', keep_negatives=0.3}",),
    "supcon": ("loss.temperature=0.1",),
    "margin": ("loss.mining=distance_weighted",),
    "smooth_ap": (),
    "recall_at_k": (),
}
WITH_WEIGHTS = {"proxy_anchor": (), "arcface": ()}
SLOWER = ("optimizer.lr=1e-4", "optimizer.head_lr=1e-4")
"""The rates of the proxy_anchor paper; its 1e-2 for the proxies is what all have."""


@dataclass(frozen=True)
class Cell:
    """One training: a loss on a pack with a seed, with or without a memory."""

    pack: str
    loss: str
    seed: int
    memory: bool = False
    slower: bool = False

    def folder(self, runs: Path) -> Path:
        kind = "-memory" if self.memory else "-slower" if self.slower else ""
        return runs / f"{self.pack}-{self.loss}{kind}-{self.seed}"

    def config(self) -> Config:
        budget = BUDGETS[self.pack]
        settings = [f"loss.name={self.loss}", "loss.temperature=", *{**PAIRS, **WITH_WEIGHTS}[self.loss]]
        settings += [*budget.settings, "train.validate_on=none", f"train.seed={self.seed}"]
        settings += budget.memory if self.memory else ()
        settings += SLOWER if self.slower else ()
        return Config.load(HERE.parent / "recipes" / f"{budget.recipe}.toml", settings)


def cells(packs: list[str], seeds: list[int]) -> Iterator[Cell]:
    """Run through all trainings, seed by seed."""
    for seed in seeds:
        for pack in packs:
            for loss in (*PAIRS, *WITH_WEIGHTS):
                yield Cell(pack, loss, seed)
                if loss in PAIRS:
                    yield Cell(pack, loss, seed, memory=True)
                if loss in BUDGETS[pack].slower:
                    yield Cell(pack, loss, seed, slower=True)


def main() -> None:
    """Train what is missing, then write the pages."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--packs", nargs="+", default=list(BUDGETS), choices=list(BUDGETS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--runs", type=Path, default=Path("runs/methods"))
    parser.add_argument("--part", default="1/1", help="which share of the trainings to do, such as 2/3")
    arguments = parser.parse_args()
    part, parts = map(int, arguments.part.split("/"))
    wanted = list(cells(arguments.packs, arguments.seeds))
    for cell in wanted[part - 1 :: parts]:
        folder = cell.folder(arguments.runs)
        train(cell.config(), folder, resume=(folder / "config.toml").exists(), progress=False)
        figures = read_runs([folder], lambda *_: None)[0].figures
        print(f"{folder.name}: Recall@1 {100 * figures['recall_at_1'][0]:.1f} %", flush=True)
    if not all((cell.folder(arguments.runs) / "test.json").exists() for cell in wanted):
        print("some trainings of other parts are not done; the pages wait for them")
        return
    for pack in arguments.packs:
        folders = [str(cell.folder(arguments.runs)) for cell in wanted if cell.pack == pack]
        title = f"Ten losses on {pack}, the same budget for each"
        command(["compare", *folders, "-o", str(HERE / "results" / f"methods-{pack}.md"), "--title", title])


if __name__ == "__main__":
    main()
