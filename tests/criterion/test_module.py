"""What a user calls: create, names, describe, and the sentences for input that does not fit."""

import inspect
import warnings

import pytest
import torch

import nearfar
from nearfar.errors import NearfarError
from nearfar.losses import Terms
from problems import batch


def test_names_and_wildcards():
    assert nearfar.losses.names() == [
        "adaface",
        "angular",
        "arcface",
        "binomial_deviance",
        "center",
        "circle",
        "clip",
        "contrastive",
        "cosface",
        "curricular_face",
        "fast_ap",
        "histogram",
        "l2_norm",
        "large_margin_softmax",
        "lifted_structure",
        "lifted_structure_generalized",
        "margin",
        "multi_similarity",
        "nca",
        "normalized_softmax",
        "npair",
        "npair_mined",
        "npair_ovo",
        "ntxent",
        "proxy_anchor",
        "proxy_nca",
        "proxy_nca_pp",
        "quadruplet",
        "rank_hard",
        "ranked_list",
        "recall_at_k",
        "roadmap",
        "siglip",
        "smooth_ap",
        "snr_contrastive",
        "soft_triple",
        "sphereface",
        "sub_center_arcface",
        "supcon",
        "triplet",
        "triplet_softmax",
        "triplet_weighted",
        "tuplet_margin",
        "uniformity",
        "zero_mean",
    ]
    assert nearfar.losses.names("*sim*") == ["multi_similarity"]
    assert nearfar.mining.names() == [
        "all",
        "distance_weighted",
        "easy",
        "easy_positive",
        "hard",
        "interval",
        "multi_similarity",
        "random",
        "relative",
        "semi_hard",
        "top_k",
    ]


def test_describe_shows_signature_and_formula():
    text = nearfar.losses.describe("multi_similarity")
    assert text.startswith("multi_similarity(*, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5)")
    assert "CVPR 2019" in text


def test_settings_are_the_keyword_arguments():
    assert list(nearfar.losses.settings("triplet").parameters) == ["margin", "soft"]
    assert nearfar.losses.settings("triplet").parameters["soft"].default is False


@pytest.mark.parametrize("name", nearfar.losses.names())
def test_every_loss_documents_formula_settings_and_source(name):
    from nearfar.losses.parts.registry import registry

    text = inspect.getdoc(registry[name].function)
    assert "L_i =" in text
    assert "Reference:" in text
    for setting in nearfar.losses.settings(name).parameters:
        assert f"{setting}:" in text


def test_repr_shows_every_setting():
    loss = nearfar.losses.create("multi_similarity", beta=40.0, mining="multi_similarity")
    assert repr(loss) == (
        "Loss(multi_similarity, alpha=2.0, beta=40.0, base=0.5, mining=multi_similarity(epsilon=0.1), "
        "similarity='cosine', reduction='mean', backend='auto')"
    )


def test_mining_as_name_mapping_or_rule():
    x, labels = batch(4, 3, 6)
    rule = nearfar.mining.create({"name": "multi_similarity", "epsilon": 0.3})
    by_rule = nearfar.losses.create("multi_similarity", mining=rule)
    by_mapping = nearfar.losses.create(
        "multi_similarity", mining={"name": "multi_similarity", "epsilon": 0.3}
    )
    assert by_rule(x, labels) == by_mapping(x, labels)
    assert nearfar.losses.create("triplet", mining="all").mining is None


def test_a_rule_shares_the_margin_of_its_loss():
    assert nearfar.losses.create("triplet", margin=0.7, mining="semi_hard").mining.settings["margin"] == 0.7
    given = nearfar.losses.create("triplet", margin=0.7, mining={"name": "semi_hard", "margin": 0.1})
    assert given.mining.settings["margin"] == 0.1
    assert nearfar.losses.create("triplet", mining="semi_hard").mining.settings["margin"] == 0.2


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"name": "multisimilarity"}, "no loss named 'multisimilarity'. Did you mean 'multi_similarity'"),
        ({"name": "triplet", "margn": 1}, "the loss 'triplet' has no setting 'margn'. Did you mean 'margin'"),
        ({"name": "triplet", "mining": "harder"}, "no mining rule named 'harder'. Did you mean 'hard'"),
        ({"name": "triplet", "mining": {"name": "semi_hard", "m": 1}}, "'semi_hard' has no setting 'm'"),
        ({"name": "triplet", "mining": {"margin": 1}}, "mining needs a name"),
        ({"name": "triplet", "similarity": "cos"}, "similarity 'cos' is not one of cosine, dot"),
        ({"name": "triplet", "reduction": "average"}, "reduction 'average' is not one of mean"),
        ({"name": "triplet", "backend": "tyled"}, "backend 'tyled' is not one of auto, reference, dense"),
    ],
)
def test_create_refuses(arguments, sentence):
    with pytest.raises(NearfarError, match=sentence.replace("(", r"\(")):
        nearfar.losses.create(**arguments)


@pytest.mark.parametrize(
    ("name", "settings", "sentence"),
    [
        ("multi_similarity", {"beta": 0}, "alpha and beta must be positive"),
        ("supcon", {"temperature": -1}, "temperature must be positive"),
        ("triplet", {"margin": -0.1}, "margin must not be negative"),
        ("contrastive", {"squared": True, "whole": True}, "whole=True"),
        ("contrastive", {"similarity": "dot"}, "no default margins for similarity='dot'"),
        ("triplet", {"mining": {"name": "semi_hard", "margin": 0}}, "semi_hard needs a positive margin"),
    ],
)
def test_settings_out_of_range(name, settings, sentence):
    x, labels = batch(3, 2, 4)
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create(name, **settings)(x, labels)


@pytest.mark.parametrize(
    ("x", "labels", "sentence"),
    [
        (
            torch.ones(4, 2),
            torch.zeros(5, dtype=torch.long),
            "labels has 5 rows but embeddings has 4; give one label for each embedding",
        ),
        (torch.ones(4, 2), torch.zeros(4), "labels must be whole numbers"),
        (
            torch.ones(4, 2, dtype=torch.long),
            torch.zeros(4, dtype=torch.long),
            "embeddings must be floating point",
        ),
        (torch.ones(4), torch.zeros(4, dtype=torch.long), r"embeddings must be .* shape \[n, dim\]"),
    ],
)
def test_input_that_does_not_fit(x, labels, sentence):
    with pytest.raises(NearfarError, match=sentence):
        nearfar.losses.create("triplet")(x, labels)


def test_candidates_need_labels_and_dimensions():
    x, labels = batch(3, 2, 4)
    loss = nearfar.losses.create("supcon")
    with pytest.raises(NearfarError, match="go together"):
        loss(x, labels, x)
    with pytest.raises(NearfarError, match="embeddings have 4 dimensions but candidates have 3"):
        loss(x, labels, x[:, :3], labels)
    ids = torch.arange(6)
    with pytest.raises(NearfarError, match="ids and candidate_ids go together; candidate_ids is missing"):
        loss(x, labels, x, labels, ids=ids)
    with pytest.raises(NearfarError, match="candidate_ids needs candidates"):
        loss(x, labels, candidate_ids=ids)
    with pytest.raises(NearfarError, match="ids has 4 rows but there are 6"):
        loss(x, labels, ids=ids[:4])
    with pytest.raises(NearfarError, match="embeddings must be a torch tensor; got ndarray"):
        loss(x.numpy(), labels)
    with pytest.raises(NearfarError, match="give one weight for each anchor"):
        loss(x, labels, weights=torch.ones(2))
    for wrong, sentence in ((-1.0, "not be negative; got -1"), (float("nan"), "be finite; got nan")):
        with pytest.raises(NearfarError, match=f"weights must {sentence}"):
            loss(x, labels, weights=torch.full((6,), wrong))


def test_create_refuses_wrong_types_in_words():
    with pytest.raises(NearfarError, match="there is no loss named 3"):
        nearfar.losses.create(3)
    with pytest.raises(NearfarError, match="backend 3 is not one of auto"):
        nearfar.losses.create("supcon", backend=3)
    with pytest.raises(NearfarError, match=r"classes of normalized_softmax must be labels .*got 'ab'"):
        nearfar.losses.create("normalized_softmax", classes="ab", dim=4)


def test_no_positive_pair_warns_once():
    x, _ = batch(4, 1, 4)
    loss = nearfar.losses.create("supcon")
    with pytest.warns(UserWarning, match="Set batch.images_per_class to 2 or more"):
        loss(x, torch.arange(4))
    loss(x, torch.arange(4))  # a second warning would be an error


def test_a_name_is_registered_once():
    from nearfar.losses.parts.registry import register_loss

    def triplet(pairs): ...

    with pytest.raises(NearfarError, match="registered already"):
        register_loss(triplet)


def test_reductions_by_hand():
    terms = Terms(
        total=torch.tensor([4.0, 0.0, 6.0, 0.0]),
        count=torch.tensor([2.0, 3.0, 3.0, 0.0]),
        active=torch.tensor([1.0, 0.0, 3.0, 0.0]),
    )
    expected = {"sum": 10, "mean": 10 / 4, "mean_valid": 10 / 3, "mean_terms": 10 / 8, "mean_active": 10 / 4}
    for how, value in expected.items():
        assert terms.reduce(how).item() == pytest.approx(value)
    assert terms.reduce("none").tolist() == [4.0, 0.0, 6.0, 0.0]
    weights = torch.tensor([1.0, 1.0, 2.0, 1.0])
    assert terms.reduce("mean_terms", weights).item() == pytest.approx(16 / 11)
    assert terms.reduce("mean", weights).item() == pytest.approx(16 / 5)


def test_statistics_of_the_last_batch():
    x, labels = batch(3, 2, 4)
    loss = nearfar.losses.create("triplet", mining="hard")
    assert loss.last is None
    loss(x.requires_grad_(), labels)
    s = x.detach() @ x.detach().T
    same = labels[:, None] == labels[None, :]
    itself = torch.eye(len(x), dtype=torch.bool)
    assert loss.last.positive_similarity.item() == pytest.approx(s[same & ~itself].mean().item())
    assert loss.last.negative_similarity.item() == pytest.approx(s[~same].mean().item())
    hardest = s.masked_fill(~same | itself, 9).min(1).values - s.masked_fill(same, -9).max(1).values
    assert loss.last.active.item() == pytest.approx((hardest < 0.2).double().mean().item())
    assert not loss.last.positive_similarity.requires_grad


def test_active_counts_anchors_after_mining():
    """Of six anchors, those whose positives all beat their negatives by the margin have no triplet left."""
    x, labels = batch(3, 2, 4, spread=0.9, seed=2)
    loss = nearfar.losses.create("triplet", mining="semi_hard")
    loss(x, labels)
    s = (x @ x.T).masked_fill(torch.eye(6, dtype=torch.bool), -9)
    p = s.masked_fill(labels[:, None] != labels, -9).max(1).values
    n = s.masked_fill(labels[:, None] == labels, -9)
    semi_hard = ((n < p[:, None]) & (n > p[:, None] - 0.2)).any(1)
    assert loss.last.active.item() == pytest.approx(semi_hard.double().mean().item())
    assert 0 < loss.last.active.item() < 1


def test_loss_is_a_module_in_anyones_loop():
    x, labels = batch(4, 3, 6)
    x.requires_grad_()
    loss = nearfar.losses.create("triplet", mining="semi_hard")
    optimizer = torch.optim.SGD([x], lr=0.5)
    first = loss(x, labels).item()
    for _ in range(20):
        optimizer.zero_grad()
        nearfar.losses.create("triplet")(x, labels).backward()
        optimizer.step()
    assert first > 0
    assert nearfar.losses.create("triplet")(x, labels).item() < first


def test_autocast_does_not_reach_the_loss():
    x, labels = batch(4, 3, 6)
    loss = nearfar.losses.create("supcon")
    expected = loss(x.float(), labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(x.float(), labels), expected)


def test_an_empty_batch_is_no_batch_without_positives():
    loss = nearfar.losses.create("contrastive")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert loss(torch.zeros(0, 4), torch.zeros(0, dtype=torch.long)) == 0
    with pytest.warns(UserWarning, match="its 2 labels all differ"):
        loss(torch.randn(2, 4), torch.arange(2))
