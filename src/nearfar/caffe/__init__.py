"""Caffe's metric-learning nets: their definitions are read, their layers run, their recipes become nearfar's.

from nearfar.caffe.prototxt import read
solver = nearfar.caffe.solver.Solver.of(read("solver.prototxt"))

Nothing is imported here: definitions are read without torch.
"""
