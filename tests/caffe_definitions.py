"""Definitions of our own, with the settings of the published ones."""

NPAIR = """
# a head of an N-pair net
layer {
  name: "unit" type: "L2Normalize"
  bottom: "features" top: "unit"
}
layer {
  name: "npair" type: "NPairMultiClassLoss"
  bottom: "unit" bottom: "identity"
  top: "npair" top: "first" top: "five" top: "ten" top: "asum"
  loss_weight: 1 loss_weight: 1 loss_weight: 1 loss_weight: 1 loss_weight: 1
  npair_loss_param {
    margin_diff: -0.05
    identsn: -0.0
    diffsn: -0.3  # not read by HARD
    ap_mining_region: GLOBAL ap_mining_method: RELATIVE_HARD
    an_mining_region: LOCAL an_mining_method: HARD
  }
}
"""

DATA = """
name: "Kites"
layer {
  name: "kites" type: "MultibatchData"
  top: "data" top: "identity"
  include { phase: TRAIN }
  transform_param { mirror: true crop_size: 56 mean_value: 104 mean_value: 117 mean_value: 123 }
  multi_batch_data_param {
    source: "kites.txt" batch_size: 12 new_height: 64 new_width: 64
    identity_num_per_batch: 6 img_num_per_identity: 2 rand_identity: true
  }
}
layer {
  name: "kites" type: "MultibatchData"
  top: "data" top: "identity"
  include { phase: TEST }
  multi_batch_data_param {
    source: "more.txt" batch_size: 4 identity_num_per_batch: 2 img_num_per_identity: 2
  }
}
"""

NETWORK = """
layer {
  name: "conv" type: "Convolution" bottom: "data" top: "conv"
  param { lr_mult: 1 } param { lr_mult: 2 decay_mult: 0 }
  convolution_param {
    num_output: 4 kernel_size: 3 stride: 2 pad: 1
    weight_filler { type: "xavier" } bias_filler { type: "constant" value: 0.2 }
  }
}
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer {
  name: "pool" type: "Pooling" bottom: "conv" top: "pool"
  pooling_param { pool: AVE global_pooling: true }
}
layer {
  name: "fc" type: "InnerProduct" bottom: "pool" top: "features"
  inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 0.5 } }
}
"""


def triplet(*, second: str = "b", loss: bool = True) -> str:
    """The triplet softmax of arithmetic layers; with ``second="a"`` the first difference is of a blob with itself."""
    parts = []
    for name, other in (("near", second), ("far", "c")):
        parts.append(f"""
layer {{
  name: "{name}" type: "Eltwise" bottom: "a" bottom: "{other}" top: "{name}"
  eltwise_param {{ operation: SUM coeff: 1 coeff: -1 }}
}}
layer {{
  name: "{name}_squared" type: "Reduction" bottom: "{name}" top: "{name}_squared"
  reduction_param {{ operation: SUMSQ axis: 1 }}
}}
layer {{
  name: "{name}_root" type: "Power" bottom: "{name}_squared" top: "{name}_squared"
  power_param {{ power: 0.5 }}
}}
layer {{
  name: "{name}_column" type: "Reshape" bottom: "{name}_squared" top: "{name}_column"
  reshape_param {{ shape {{ dim: -1 dim: 1 }} }}
}}""")
    if loss:
        parts.append("""
layer { name: "both" type: "Concat" bottom: "near_column" bottom: "far_column" top: "both" }
layer { name: "share" type: "Softmax" bottom: "both" top: "share" }
layer {
  name: "zero" type: "DummyData" top: "zero" top: "one"
  dummy_data_param {
    shape { dim: 8 dim: 1 }
    data_filler { type: "constant" value: 0 } data_filler { type: "constant" value: 1 }
  }
}
layer { name: "wanted" type: "Concat" bottom: "zero" bottom: "one" top: "wanted" }
layer { name: "loss" type: "EuclideanLoss" bottom: "share" bottom: "wanted" top: "loss" }
""")
    return "".join(parts)


RANK_HARD = """
layer {
  name: "ranking" type: "RankHardLoss"
  bottom: "unit" bottom: "label"
  rank_param { neg_num: 4 pair_size: 2 hard_ratio: 0.5 rand_ratio: 0.5 margin: 1 }
}
"""

SOLVER = """
net: "kites.prototxt"
base_lr: 0.01
lr_policy: "step"
stepsize: 100
gamma: 0.5
momentum: 0.9
weight_decay: 2e-5
max_iter: 400
snapshot: 50
test_initialization: true
"""
