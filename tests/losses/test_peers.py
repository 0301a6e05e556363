"""The losses of pytorch-metric-learning on the same inputs, where its definition is ours; and where it is not."""

import math

import pytest
import torch
from pytorch_metric_learning import distances, losses, miners, reducers

import nearfar
from problems import batch

COSINE = distances.CosineSimilarity()
EUCLIDEAN = distances.LpDistance(normalize_embeddings=False)

AGREE = {
    "multi_similarity": (
        losses.MultiSimilarityLoss(alpha=2, beta=50, base=0.5),
        None,
        nearfar.losses.create("multi_similarity"),
    ),
    "multi_similarity mined": (
        losses.MultiSimilarityLoss(alpha=2, beta=40, base=0.5),
        miners.MultiSimilarityMiner(epsilon=0.1),
        nearfar.losses.create("multi_similarity", beta=40.0, mining="multi_similarity"),
    ),
    "supcon": (
        losses.SupConLoss(temperature=0.1, reducer=reducers.MeanReducer()),
        None,
        nearfar.losses.create("supcon", temperature=0.1),
    ),
    "triplet": (
        losses.TripletMarginLoss(margin=0.2, distance=EUCLIDEAN),
        None,
        nearfar.losses.create("triplet", margin=0.2, similarity="euclidean"),
    ),
    "triplet hard": (
        losses.TripletMarginLoss(margin=0.2, distance=EUCLIDEAN, reducer=reducers.MeanReducer()),
        miners.BatchHardMiner(distance=EUCLIDEAN),
        nearfar.losses.create("triplet", margin=0.2, similarity="euclidean", mining="hard"),
    ),
    "triplet soft": (
        losses.TripletMarginLoss(
            margin=0.1, distance=COSINE, smooth_loss=True, reducer=reducers.MeanReducer()
        ),
        None,
        nearfar.losses.create("triplet", margin=0.1, soft=True, reduction="mean_terms"),
    ),
    "contrastive": (
        losses.ContrastiveLoss(pos_margin=1, neg_margin=0.5, distance=COSINE, reducer=reducers.SumReducer()),
        None,
        nearfar.losses.create("contrastive", reduction="sum"),
    ),
    "contrastive euclidean": (
        losses.ContrastiveLoss(pos_margin=0, neg_margin=1, distance=EUCLIDEAN, reducer=reducers.SumReducer()),
        None,
        nearfar.losses.create("contrastive", similarity="euclidean", reduction="sum"),
    ),
    "contrastive as it averages": (
        losses.ContrastiveLoss(pos_margin=1, neg_margin=0.5, distance=COSINE),
        None,
        nearfar.losses.create("contrastive", balance="batch", reduction="mean_active"),
    ),
    "ntxent": (losses.NTXentLoss(temperature=0.2), None, nearfar.losses.create("ntxent", temperature=0.2)),
    "circle": (
        losses.CircleLoss(m=0.25, gamma=20, reducer=reducers.MeanReducer()),
        None,
        nearfar.losses.create("circle", margin=0.25, temperature=1 / 20, frozen=True),
    ),
    "tuplet margin": (
        losses.TupletMarginLoss(margin=math.degrees(0.1), scale=64),
        None,
        nearfar.losses.create("tuplet_margin"),
    ),
    "lifted": (losses.LiftedStructureLoss(), None, nearfar.losses.create("lifted_structure")),
    "generalised lifted": (
        losses.GeneralizedLiftedStructureLoss(),
        None,
        nearfar.losses.create("lifted_structure_generalized"),
    ),
    "nca": (
        losses.NCALoss(softmax_scale=2, distance=distances.LpDistance(power=2, normalize_embeddings=False)),
        None,
        nearfar.losses.create("nca", temperature=1 / 2, similarity="squared_euclidean"),
    ),
    "nca cosine": (losses.NCALoss(softmax_scale=16, distance=COSINE), None, nearfar.losses.create("nca")),
    "snr contrastive": (
        losses.SignalToNoiseRatioContrastiveLoss(pos_margin=0.2, neg_margin=1.5),
        None,
        nearfar.losses.create("snr_contrastive", positive_margin=0.2, negative_margin=1.5),
    ),
}


@pytest.mark.parametrize("name", AGREE)
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees(name, seed):
    theirs, miner, ours = AGREE[name]
    x, labels = batch(6, 4, 16, spread=0.9, seed=seed)
    x.requires_grad_()
    expected = theirs(x, labels, None if miner is None else miner(x, labels))
    value = ours(x, labels)
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)
    (grad,) = torch.autograd.grad(value, x)
    (expected_grad,) = torch.autograd.grad(expected, x)
    torch.testing.assert_close(grad, expected_grad, rtol=1e-7, atol=1e-9)


def test_npair_agrees_where_the_peer_has_one_pair_per_class():
    """It takes one anchor and one positive of each class; we are given them as anchors and candidates."""
    x = 2 * batch(6, 2, 8, seed=1)[0].requires_grad_()
    labels = torch.arange(6).repeat_interleave(2)
    dot = distances.DotProductSimilarity(normalize_embeddings=False)
    expected = losses.NPairsLoss(distance=dot)(x, labels)
    one, other = torch.arange(0, 12, 2), torch.arange(1, 12, 2)
    loss = nearfar.losses.create("npair", similarity="dot")
    value = loss(x[one], labels[one], x[other], labels[other])
    assert value.item() == pytest.approx(expected.item(), rel=1e-9)


@pytest.mark.parametrize("seed", [0, 1])
def test_ranked_list_agrees_but_for_the_constant_in_the_divisor_of_the_peer(seed):
    """It adds 1e-5 to every weight, of pairs that do not count too."""
    x, labels = batch(6, 4, 16, spread=0.9, seed=seed)
    theirs = losses.RankedListLoss(margin=0.4, Tn=3, Tp=2, alpha=1.2)
    ours = nearfar.losses.create(
        "ranked_list", boundary=1.2, margin=0.4, sharpness=3.0, positive_sharpness=2.0
    )
    assert ours(x, labels).item() == pytest.approx(theirs(x, labels).item(), rel=5e-4)


def test_default_margins_of_the_peer_never_repel_under_the_cosine():
    """relu(s - 1) is 0 for every pair: its margins are made for distances. Ours belong to the similarity."""
    x, labels = batch(4, 3, 8)
    apart = torch.arange(len(labels))
    assert losses.ContrastiveLoss(distance=COSINE)(x, apart).item() == 0
    with pytest.warns(UserWarning, match="no positive pair"):
        assert nearfar.losses.create("contrastive", negative_margin=-1.0)(x, apart).item() > 0


def test_dot_product_of_the_peer_normalises_by_default():
    """Its DotProductSimilarity of [3, 4] with itself is 1; ours is 25."""
    x = torch.tensor([[3.0, 4.0], [3.0, 4.0]])
    assert distances.DotProductSimilarity()(x)[0, 1].item() == pytest.approx(1)
    pairs = nearfar.Pairs.within(x, torch.tensor([0, 0]), similarity="dot")
    assert pairs.positives.similarity.tolist() == [25.0, 25.0]
