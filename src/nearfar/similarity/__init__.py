"""The arithmetic of comparisons, on plain tensors: who meets whom, how near, reduced how, computed where."""

from nearfar.similarity.block import Block, Measure
from nearfar.similarity.choose import Backend, choose
from nearfar.similarity.reductions import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    Reduction,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
)
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import normalize, softplus

__all__ = [
    "ArgMax",
    "Backend",
    "Block",
    "Count",
    "HingeSum",
    "LogSumExp",
    "Max",
    "Measure",
    "Min",
    "Reduction",
    "Relation",
    "SoftplusSum",
    "SquaredHingeSum",
    "Sum",
    "choose",
    "normalize",
    "softplus",
]
