"""Training: a run folder from a configuration, resumable bit for bit.

result = nearfar.train.train(nearfar.config.Config.load("objects"), "runs/objects")
"""

from nearfar.train.large_batch import two_pass
from nearfar.train.loop import RunResult
from nearfar.train.plan import Plan
from nearfar.train.start import train
from nearfar.train.stopping import RunInterrupted
from nearfar.train.tracking import JsonLines, Tracker, read_log
from nearfar.train.watch import TrainingDiverged

__all__ = [
    "JsonLines",
    "Plan",
    "RunInterrupted",
    "RunResult",
    "Tracker",
    "TrainingDiverged",
    "read_log",
    "train",
    "two_pass",
]
