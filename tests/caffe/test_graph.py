"""Layers and blobs of a net: what takes part in a phase, what joins, what cannot."""

import pytest

from caffe_definitions import DATA, NETWORK, NPAIR, SOLVER
from nearfar.caffe.graph import NetError, read_graph
from nearfar.caffe.prototxt import PrototxtError, parse


def relu(bottom: str, top: str, name: str = "relu", more: str = "") -> str:
    return f'layer {{ name: "{name}" type: "ReLU" bottom: "{bottom}" top: "{top}" {more} }}\n'


def test_data_layers_of_the_phase_are_the_inputs():
    graph = read_graph(DATA + NETWORK + NPAIR)
    assert graph.name == "Kites"
    assert graph.inputs == ("data", "identity")
    assert [layer.name for layer in graph.layers] == ["conv", "relu", "pool", "fc", "unit", "npair"]
    assert [layer.message.line for layer in graph.sources] == [3]
    assert len(read_graph(DATA + NETWORK + NPAIR, "TEST").sources) == 1


@pytest.mark.parametrize(
    "declared",
    [
        'input: "x" input_shape { dim: 2 dim: 3 }',
        'input: "x" input_dim: 2 input_dim: 3 input_dim: 1 input_dim: 1',
        'layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 } } }',
        'layer { name: "x" type: "ImageData" top: "x" image_data_param { source: "l" batch_size: 2 } }',
        'layers { name: "x" type: HDF5_DATA top: "x" }',
    ],
)
def test_declared_inputs(declared):
    assert read_graph(f"{declared}\n{relu('x', 'y')}").inputs == ("x",)


def test_a_part_of_a_net_takes_what_nothing_makes():
    assert read_graph(relu("x", "y") + relu("y", "z", "next")).inputs == ("x",)


def test_the_old_form_has_upper_case_types():
    graph = read_graph(
        'layers { name: "fc" type: INNER_PRODUCT bottom: "x" top: "y" inner_product_param { num_output: 2 } }'
        'layers { name: "s" type: SOFTMAX_LOSS bottom: "y" bottom: "l" top: "s" }'
    )
    assert [layer.kind for layer in graph.layers] == ["innerproduct", "softmaxwithloss"]


@pytest.mark.parametrize(
    ("rule", "phase", "kept"),
    [
        ("include { phase: TRAIN }", "TRAIN", True),
        ("include { phase: TRAIN }", "TEST", False),
        ("exclude { phase: TEST }", "TEST", False),
        ("exclude { phase: TEST }", "TRAIN", True),
        ("include { phase: TEST } include { phase: TRAIN }", "TRAIN", True),
        ("include { min_level: 1 }", "TRAIN", False),
        ("include { max_level: 1 }", "TRAIN", True),
        ('include { stage: "deploy" }', "TRAIN", False),
        ('exclude { not_stage: "deploy" }', "TRAIN", False),
        ("phase: TEST", "TRAIN", False),
    ],
)
def test_rules(rule, phase, kept):
    graph = read_graph(relu("x", "y") + relu("y", "z", "more", rule), phase)
    assert [layer.name for layer in graph.layers] == (["relu", "more"] if kept else ["relu"])


def test_level_and_stages_of_the_net():
    text = 'state { level: 2 stage: "deploy" }' + relu(
        "x", "y", "a", 'include { min_level: 1 stage: "deploy" }'
    )
    assert len(read_graph(text).layers) == 1


def fails(text: str, *words: str) -> None:
    with pytest.raises((NetError, PrototxtError)) as caught:
        read_graph(text)
    for word in words:
        assert word in str(caught.value)


def test_what_cannot_be():
    fails('input: "x"\n' + relu("u", "y"), "net:2", "bottom 'u' of layer 'relu'", "no layer above it")
    fails('input: "data"\n' + relu("dtaa", "y"), "Did you mean 'data'?")
    fails(relu("y", "z") + relu("x", "y", "late"), "bottom 'y'", "only by layer 'late' (net:2)")
    fails('input: "x"\n' + relu("x", "y") + relu("x", "y", "again"), "'again'", "top 'y'", "'relu'", "line 2")
    fails('input: "x"\n' + relu("y", "x"), "bottom 'y'")
    fails('input: "x" input: "y"\n' + relu("y", "x"), "'x' is an input of the net already")
    fails('layer { name: "a" bottom: "x" top: "y" }', "net:1", "no type")
    fails(
        'layer { name: "a" type: "ReLU" botom: "x" top: "y" }', "net:1", "'botom'", "Did you mean 'bottom'?"
    )
    fails(relu("x", "y", more="loss_weight: 1 loss_weight: 2"), "1 tops but 2 loss_weight")
    fails('layers { layer { name: "a" type: "relu" } bottom: "x" top: "y" }', "oldest form")
    fails(relu("x", "y", more="include { phase: TRAIN } exclude { phase: TEST }"), "both include and exclude")
    fails(relu("x", "y", more="include { phase: TRIAN }"), "TRIAN", "Did you mean 'TRAIN'?")
    with pytest.raises(NetError, match=r"phase 'train' .* Did you mean 'TRAIN'\?"):
        read_graph(relu("x", "y"), "train")
    fails("layer: 3\n", "message in braces")
    fails(SOLVER, "this is a solver, not a net")
    fails('name: "empty"\n', "has no 'layer { … }'")


def test_weights_are_no_net(tmp_path):
    file = tmp_path / "kites.caffemodel"
    file.write_bytes(b"\x00\x01")
    with pytest.raises(NetError, match=r"kites\.caffemodel: this is a binary file of weights"):
        read_graph(file)


def test_a_message_that_was_read_already():
    assert read_graph(parse(relu("x", "y"), "kites.prototxt")).layers[0].where == "kites.prototxt:1"
