"""Evaluation: exact retrieval metrics, neighbours, verification, clustering, space, re-ranking.

result = nearfar.evaluate.retrieval(embeddings, labels)
print(result)
"""

from nearfar.evaluate.clustering import Agreement, Clustering, KMeans, agreement, clustering, kmeans
from nearfar.evaluate.labels import RepeatedIdWarning
from nearfar.evaluate.neighbours import Neighbours, neighbours
from nearfar.evaluate.rerank import (
    KReciprocal,
    Whitening,
    augment_gallery,
    average_views,
    concatenate_models,
    expand_queries,
    k_reciprocal,
)
from nearfar.evaluate.result import RetrievalResult, TieWarning
from nearfar.evaluate.retrieval import retrieval, retrieval_by_distance
from nearfar.evaluate.sharded import neighbours_across_ranks
from nearfar.evaluate.space import Space, SpaceWarning, alignment, silhouette, space, spectrum, uniformity
from nearfar.evaluate.verification import FoldAccuracy, Verification, fold_accuracy, verification

__all__ = [
    "Agreement",
    "Clustering",
    "FoldAccuracy",
    "KMeans",
    "KReciprocal",
    "Neighbours",
    "RepeatedIdWarning",
    "RetrievalResult",
    "Space",
    "SpaceWarning",
    "TieWarning",
    "Verification",
    "Whitening",
    "agreement",
    "alignment",
    "augment_gallery",
    "average_views",
    "clustering",
    "concatenate_models",
    "expand_queries",
    "fold_accuracy",
    "k_reciprocal",
    "kmeans",
    "neighbours",
    "neighbours_across_ranks",
    "retrieval",
    "retrieval_by_distance",
    "silhouette",
    "space",
    "spectrum",
    "uniformity",
    "verification",
]
