"""A name that others use, or that is written otherwise, leads to the one that is used here."""

import pytest

import nearfar
from nearfar.config import loss_settings
from nearfar.errors import ConfigError, NearfarError, suggest

LOSSES = {
    "TripletMarginLoss": "triplet",
    "torch.nn.TripletMarginLoss": "triplet",
    "TripletLoss": "triplet",
    "triplet_margin": "triplet",
    "BatchHardTripletLoss": "triplet",
    "MultiSimilarityLoss": "multi_similarity",
    "multisimilarity": "multi_similarity",
    "multi-similarity": "multi_similarity",
    "NTXentLoss": "ntxent",
    "nt_xent": "ntxent",
    "InfoNCE": "ntxent",
    "MultipleNegativesRankingLoss": "ntxent",
    "SupConLoss": "supcon",
    "SupervisedContrastiveLoss": "supcon",
    "ArcFaceLoss": "arcface",
    "losses.ArcFaceLoss": "arcface",
    "ArcFace": "arcface",
    "SubCenterArcFaceLoss": "sub_center_arcface",
    "CosFaceLoss": "cosface",
    "AMSoftmax": "cosface",
    "SphereFaceLoss": "sphereface",
    "ContrastiveLoss": "contrastive",
    "CosineEmbeddingLoss": "contrastive",
    "ProxyNCALoss": "proxy_nca",
    "ProxyAnchorLoss": "proxy_anchor",
    "SoftTripleLoss": "soft_triple",
    "NormalizedSoftmaxLoss": "normalized_softmax",
    "LargeMarginSoftmaxLoss": "large_margin_softmax",
    "NPairsLoss": "npair",
    "NCALoss": "nca",
    "FastAPLoss": "fast_ap",
    "SmoothAPLoss": "smooth_ap",
    "CircleLoss": "circle",
    "MarginLoss": "margin",
    "AngularLoss": "angular",
    "HistogramLoss": "histogram",
    "LiftedStructureLoss": "lifted_structure",
    "GeneralizedLiftedStructureLoss": "lifted_structure_generalized",
    "SignalToNoiseRatioContrastiveLoss": "snr_contrastive",
    "TupletMarginLoss": "tuplet_margin",
    "RankedListLoss": "ranked_list",
    "CurricularFace": "curricular_face",
    "CenterLoss": "center",
    "MultiSimilarytyLoss": "multi_similarity",
    "tripplet": "triplet",
}
RULES = {
    "BatchHardMiner": "hard",
    "MultiSimilarityMiner": "multi_similarity",
    "DistanceWeightedMiner": "distance_weighted",
    "semihard": "semi_hard",
    "semi-hard": "semi_hard",
    "topk": "top_k",
    "PairMarginMiner": "interval",
}


@pytest.mark.parametrize(("word", "name"), LOSSES.items())
def test_losses(word, name):
    with pytest.raises(NearfarError, match=f"Did you mean '{name}'"):
        nearfar.losses.create(word)
    with pytest.raises(ConfigError, match=f"Did you mean '{name}'"):
        loss_settings._known_name("loss.name", word, nearfar.losses.names())


@pytest.mark.parametrize(("word", "name"), RULES.items())
def test_rules(word, name):
    with pytest.raises(NearfarError, match=f"Did you mean '{name}'"):
        nearfar.losses.create("triplet", mining=word)


def test_every_name_written_as_a_class_is_found():
    for name in nearfar.losses.names():
        camel = "".join(part.capitalize() for part in name.split("_"))
        for word in (camel, f"{camel}Loss", name.upper(), name.replace("_", "-")):
            assert suggest(word, nearfar.losses.names()) == f" Did you mean {name!r}?"


def test_what_is_like_nothing_suggests_nothing():
    assert suggest("qqqq", nearfar.losses.names()) == ""
    assert suggest("", nearfar.losses.names()) == ""
    assert suggest("Loss", ["triplet"]) == ""
    assert suggest("x" * 10**7, nearfar.losses.names()) == ""


def test_the_error_is_at_the_top_of_the_package():
    assert nearfar.NearfarError is NearfarError
    with pytest.raises(nearfar.NearfarError):
        nearfar.losses.create("no such loss")
