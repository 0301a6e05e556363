"""Layers of old Caffe metric-learning nets, as torch modules; settings are named as in their proto.

By default each computes what it says: true gradients, no NaN, no reading beyond a list. ``parity=True`` gives
the original's numbers, bottom gradient included. docs/from-caffe.md lists what differs.
"""

from nearfar.caffe.layers.arithmetic import Eltwise, EuclideanLoss, Power, Reduction, Softmax
from nearfar.caffe.layers.inner_product import InnerProduct
from nearfar.caffe.layers.multibatch_data import MultibatchData
from nearfar.caffe.layers.normalize import L2Normalize, Norm
from nearfar.caffe.layers.npair import NPairMultiClassLoss
from nearfar.caffe.layers.rank_hard import RankHardLoss
from nearfar.caffe.layers.shapes import Concat, Reshape
from nearfar.caffe.layers.triplet_softmax import TripletSoftmaxLoss

__all__ = [
    "Concat",
    "Eltwise",
    "EuclideanLoss",
    "InnerProduct",
    "L2Normalize",
    "MultibatchData",
    "NPairMultiClassLoss",
    "Norm",
    "Power",
    "RankHardLoss",
    "Reduction",
    "Reshape",
    "Softmax",
    "TripletSoftmaxLoss",
]
