"""The report of a run: one page, one picture to share, one file of numbers.

material = nearfar.report.gather("runs/objects")
nearfar.report.write_report(material, "runs/objects")
"""

from nearfar.report.baselines import gather
from nearfar.report.material import Material
from nearfar.report.page import write_report

__all__ = ["Material", "gather", "write_report"]
