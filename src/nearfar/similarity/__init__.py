"""The arithmetic of comparisons, on plain tensors: who meets whom, how near, reduced how, computed where."""

from nearfar.similarity.block import Block
from nearfar.similarity.choose import check_backend, choose
from nearfar.similarity.labels import Listed, Relevance, SameClass, SharedTag
from nearfar.similarity.measure import Measure, between
from nearfar.similarity.reductions import (
    ArgMax,
    Count,
    HingeSum,
    LogSumExp,
    Max,
    Min,
    Negated,
    OrderStatistic,
    Reduction,
    Sample,
    SigmoidSquareSum,
    SigmoidSum,
    SoftMean,
    SoftplusSum,
    SquaredHingeSum,
    Sum,
    TopK,
)
from nearfar.similarity.relation import Relation
from nearfar.similarity.stable import normalize, softplus

__all__ = [
    "ArgMax",
    "Block",
    "Count",
    "HingeSum",
    "Listed",
    "LogSumExp",
    "Max",
    "Measure",
    "Min",
    "Negated",
    "OrderStatistic",
    "Reduction",
    "Relation",
    "Relevance",
    "SameClass",
    "Sample",
    "SharedTag",
    "SigmoidSquareSum",
    "SigmoidSum",
    "SoftMean",
    "SoftplusSum",
    "SquaredHingeSum",
    "Sum",
    "TopK",
    "between",
    "check_backend",
    "choose",
    "normalize",
    "softplus",
]
