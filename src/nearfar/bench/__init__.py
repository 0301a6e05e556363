"""Time and memory of the losses, beside those of pytorch-metric-learning and of the bare matrix products.

report = nearfar.bench.measure(nearfar.bench.Plan(losses=("supcon",), n=(1024,), dims=(128,)))
"""

from nearfar.bench.busy import BusyReport, measure_busy
from nearfar.bench.losses import Cell, Report, Taken, measure
from nearfar.bench.plan import Plan
from nearfar.bench.tables import BUSY, TERMINAL, busy_markdown, busy_rows, markdown, terminal_rows
from nearfar.bench.write import check_folder, write, write_busy, write_json

__all__ = [
    "BUSY",
    "TERMINAL",
    "BusyReport",
    "Cell",
    "Plan",
    "Report",
    "Taken",
    "busy_markdown",
    "busy_rows",
    "check_folder",
    "markdown",
    "measure",
    "measure_busy",
    "terminal_rows",
    "write",
    "write_busy",
    "write_json",
]
