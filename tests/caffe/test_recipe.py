"""A definition and its solver become a recipe; the table says what was found and what differs."""

import tomllib
from pathlib import Path
from typing import Any

import pytest

from caffe_definitions import DATA, NETWORK, NPAIR, RANK_HARD, SOLVER, triplet
from nearfar.caffe.graph import NetError
from nearfar.caffe.recipe import Recipe, import_net
from nearfar.config import Config
from nearfar.errors import ConfigError, NearfarError


@pytest.fixture
def imported(tmp_path):
    def importing(net: str, solver: str | None = None) -> tuple[dict[str, Any], Recipe]:
        (tmp_path / "net.prototxt").write_text(net)
        (tmp_path / "solver.prototxt").write_text(solver or "")
        given = None if solver is None else tmp_path / "solver.prototxt"
        recipe = import_net(tmp_path / "net.prototxt", given)
        (tmp_path / "net.toml").write_text(recipe.toml)
        Config.load(tmp_path / "net.toml")
        return tomllib.loads(recipe.toml), recipe

    return importing


def row(recipe: Recipe, word: str) -> str:
    """The only row whose found part has ``word``, in one text."""
    (found,) = [row for row in recipe.rows if word in row.found]
    return " | ".join(found)


def test_the_npair_net(imported):
    values, recipe = imported(DATA + NETWORK + NPAIR, SOLVER)
    assert values == {
        "data": {"source": "objects"},
        "augment": {
            "flip": True,
            "scale": [0.7656, 0.7656],
            "ratio": [1.0, 1.0],
            "brightness": 0,
            "contrast": 0,
            "saturation": 0,
        },
        "model": {"size": 56, "backbone": "nearfar/small", "pretrained": False, "dim": 5},
        "loss": {
            "name": "npair_mined",
            "similarity": "cosine",
            "mining": {
                "name": "relative",
                "positive_method": "relative_hard",
                "positive_over": "batch",
                "keep_positives": 0,
                "negative_method": "hard",
                "negative_over": "anchor",
                "negative_shift": -0.05,
                "ranking": "caffe",
            },
        },
        "batch": {"classes_per_batch": 6, "images_per_class": 2},
        "optimizer": {
            "name": "sgd",
            "lr": 0.01,
            "head_lr": 0.01,
            "loss_lr": 0.01,
            "warmup_epochs": 0,
            "schedule": "step",
            "step_size": 100,
            "gamma": 0.5,
            "momentum": 0.9,
            "weight_decay": 2e-5,
        },
        "train": {"steps": 400},
    }
    assert recipe.faults == ()
    assert "half of the gradient" in row(recipe, "NPairMultiClassLoss")
    assert "Caffe took -∞" in row(recipe, "ap_mining")
    assert "mean and deviation" in row(recipe, "mean_value: 104, 117, 123")
    assert "train.checkpoint_minutes" in row(recipe, "snapshot: 50")
    assert recipe.toml.startswith(
        "# from:     net.prototxt and solver.prototxt, by nearfar caffe import\n# command:"
    )


def test_the_recipe_mines_what_the_layer_mines(imported):
    """Both select the same pairs: the loss of the recipe is the loss of the net."""
    import torch

    import nearfar
    from nearfar.caffe.convert import convert

    text = NPAIR.replace("an_mining_method: HARD", "an_mining_method: RELATIVE_EASY").replace(
        "-0.0\n", "-0.4\n"
    )
    loss = imported(text)[0]["loss"]
    x = torch.nn.functional.normalize(torch.randn(12, 6, generator=torch.Generator().manual_seed(0))).abs()
    labels = torch.arange(12) // 2
    made = nearfar.losses.create(loss.pop("name"), **loss)
    tops = convert(text, parity=True)({"features": x, "identity": labels})
    torch.testing.assert_close(made(x, labels), tops["npair"])


def test_all_methods_of_the_npair_layer(imported):
    values, recipe = imported(NPAIR.replace("RELATIVE_HARD", "RAND").replace("HARD", "RELATIVE_EASY"))
    assert values["loss"]["mining"] == {
        "name": "relative",
        "positive_method": "all",
        "negative_method": "relative_easy",
        "negative_over": "anchor",
        "keep_negatives": -0.3,
        "negative_shift": -0.05,
        "ranking": "caffe",
    }
    assert "RAND never drew" in row(recipe, "ap_mining")


def test_triplet_softmax(imported):
    values, recipe = imported(triplet())
    assert values["loss"] == {"name": "triplet_softmax", "similarity": "euclidean"}
    assert "Softmax → EuclideanLoss" in row(recipe, "Eltwise")
    assert recipe.faults == ()


def test_triplet_softmax_as_published(imported):
    """Cut off behind the first distance, and of a blob with itself."""
    text = triplet(second="a", loss=False)
    values, recipe = imported(text[: text.index('name: "near_column"') - len("layer {\n  ")])
    assert values["loss"]["name"] == "triplet_softmax"
    assert "ends at 'near_root'" in row(recipe, "Eltwise")
    (fault,) = recipe.faults
    assert "subtracts blob 'a' from itself" in fault


def test_the_weight_of_the_loss_is_told(imported):
    _, recipe = imported(NPAIR.replace("loss_weight: 1", "loss_weight: 3", 1))
    assert "multiply the learning rates" in row(recipe, "loss_weight: 3")


def test_the_length_of_a_sum_is_no_distance(imported):
    with pytest.raises(NetError, match="no loss of this net can be imported"):
        imported(triplet().replace("coeff: -1", "coeff: 1"))


def test_rank_hard(imported):
    values, recipe = imported(RANK_HARD.replace('bottom: "unit"', 'bottom: "features"'))
    assert values["loss"] == {"name": "rank_hard", "negatives": 4, "margin": 1, "similarity": "dot"}
    assert "a random 2 of the 4 hardest and 2 random others" in row(recipe, "RankHardLoss")
    data = 'layer { name: "d" type: "ImageData" top: "features" top: "label" image_data_param { source: "l" batch_size: 32 } }'
    values, recipe = imported(data + RANK_HARD.replace('bottom: "unit"', 'bottom: "features"'))
    assert values["batch"] == {"classes_per_batch": 16, "images_per_class": 2}
    assert values["augment"] == {"flip": False}
    fours = RANK_HARD.replace('bottom: "unit"', 'bottom: "features"').replace("pair_size: 2", "pair_size: 4")
    values, recipe = imported(data + fours)
    assert values["batch"] == {"classes_per_batch": 8, "images_per_class": 4}


def test_what_pools_last_has_no_head(imported):
    text = NETWORK[: NETWORK.index('layer {\n  name: "fc"')] + NPAIR.replace('"features"', '"pool"')
    assert imported(DATA + text)[0]["model"]["head"] == "none"


def test_without_a_solver_the_backbone_learns_as_it_should(imported):
    values, _ = imported(NPAIR)
    assert values["optimizer"]["lr"] == Config.load("objects").optimizer.lr


def test_a_transformer_in_front_turns_the_images(imported):
    turning = """
layer {
  name: "turn" type: "DataTransformer" bottom: "data" top: "data"
  data_transformer_l_param { rotate_angle_scope: 0.349 h_flip: true }
}
"""
    assert imported(DATA + turning + NETWORK + NPAIR)[0]["augment"]["rotate"] == 20.0


def test_layers_that_are_unknown_do_not_stop_an_import(imported):
    text = 'layer { name: "u" type: "Deconvolution" bottom: "data" top: "features" }\n' + NPAIR
    assert imported(DATA + text)[0]["loss"]["name"] == "npair_mined"


@pytest.mark.parametrize(
    ("lines", "wanted"),
    [
        ('lr_policy: "fixed"', {"schedule": "constant"}),
        ('lr_policy: "exp" gamma: 0.99', {"schedule": "exp", "gamma": 0.99}),
        ('lr_policy: "inv" gamma: 1e-4 power: 0.75', {"schedule": "inv", "gamma": 1e-4, "power": 0.75}),
        ('lr_policy: "poly" power: 0.5', {"schedule": "poly", "power": 0.5}),
        (
            'lr_policy: "multistep" gamma: 0.1 stepvalue: 100 stepvalue: 300',
            {"schedule": "multistep", "step_values": [100, 300], "gamma": 0.1},
        ),
        (
            'lr_policy: "multistep" gamma: 0.1 stepvalue: 200 stepvalue: 100 stepvalue: 300',
            {"schedule": "multistep", "step_values": [200, 201, 300], "gamma": 0.1},
        ),
        ('lr_policy: "sigmoid" gamma: -0.1 stepsize: 50', {"schedule": "multistep", "step_values": [50]}),
        ('lr_policy: "sigmoid" gamma: 0.1 stepsize: 50', {"schedule": "constant"}),
        ('type: "Adam"', {"name": "adamw"}),
        ('type: "Nesterov"', {"name": "sgd"}),
        ('type: "RMSProp"', {"name": "adamw"}),
        ("clip_gradients: 5", {"clip_norm": 5}),
    ],
)
def test_solvers(imported, lines, wanted):
    values, _ = imported(NPAIR, f"base_lr: 0.01 max_iter: 400 momentum: 0.9 {lines}")
    assert wanted.items() <= values["optimizer"].items()


def test_what_a_solver_says_besides(imported):
    values, recipe = imported(
        NPAIR, SOLVER + "random_seed: 7 iter_size: 2 lars: true regularization_type: 'L1'"
    )
    assert values["train"]["seed"] == 7
    assert "larger" in row(recipe, "iter_size")
    assert "left out" in row(recipe, "lars")
    assert "L1 decay becomes L2" in row(recipe, "weight_decay")


@pytest.mark.parametrize(
    ("net", "solver", "kind", "words"),
    [
        (SOLVER, None, NetError, "this is a solver, not a net"),
        (NPAIR, NPAIR, NearfarError, "this has layers, so it is a net"),
        (NETWORK, None, NetError, "no loss of this net can be imported (it has none)"),
        (NPAIR + "\n.\n.\n", None, NearfarError, "stands for lines that were left out"),
        (NPAIR.replace("margin_diff", "margin_dif"), None, NearfarError, "Did you mean 'margin_diff'?"),
        (RANK_HARD.replace("neg_num: 4", "neg_num: 0"), None, NetError, "neg_num of 1 or more"),
        (RANK_HARD.replace("hard_ratio: 0.5", "hard_ratio: nan"), None, NetError, "ratios in [0, 1]"),
        (DATA.replace("batch_size: 12", "batch_size: 13") + NPAIR, None, NetError, "has batch_size 13"),
        (DATA.replace("crop_size: 56", "crop_size: 4") + NPAIR, None, ConfigError, "model.size must be"),
        (NPAIR, SOLVER.replace("0.9", "1.5"), ConfigError, "optimizer.momentum must be"),
    ],
)
def test_what_cannot_be_imported(imported, net, solver, kind, words):
    with pytest.raises(kind) as caught:
        imported(net, solver)
    assert words in str(caught.value)


def test_files_that_are_none(tmp_path: Path):
    (tmp_path / "net.caffemodel").write_bytes(b"\xff\x00")
    (tmp_path / "net.prototxt").write_text(NPAIR)
    with pytest.raises(NetError, match="binary file of weights"):
        import_net(tmp_path / "net.caffemodel")
    with pytest.raises(NetError, match="binary file of weights"):
        import_net(tmp_path / "net.prototxt", tmp_path / "net.caffemodel")
    with pytest.raises(NearfarError, match="there is no such file"):
        import_net(tmp_path / "nte.prototxt")


def test_a_misspelt_field_of_the_solver_is_told_with_the_right_one(imported):
    _, recipe = imported(DATA + NETWORK + NPAIR, "base_lr: 0.1 max_itr: 9 richness: 1")
    assert row(recipe, "max_itr") == (
        "max_itr (line 1) | - | not a field of Caffe's solver; left out. Did you mean 'max_iter'?"
    )
    assert row(recipe, "richness").endswith("left out.")
