"""The golden retrieval problems: how to read one, and the call of ``retrieval`` it asks for."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from nearfar.evaluate import RetrievalResult, TieWarning, retrieval

FOLDER = Path(__file__).parent / "golden" / "metrics"


def load(case: int) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"case{case:02d}.npz", allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def problem(case: int, data: dict[str, np.ndarray], dtype: type, prefix: str = "") -> dict[str, Any]:
    """The arguments of ``retrieval`` that say what a golden case asks for."""
    metric = json.loads(str(data["meta"]))["metric"]
    arguments: dict[str, Any] = {
        "similarity": "squared_euclidean" if metric == "sqeuclidean" else metric,
        "ks": tuple(data["ks"].tolist()),
    }
    if case <= 4:
        return arguments | {"embeddings": data["embeddings"].astype(dtype), "labels": data["labels"]}
    if case == 10:
        query, gallery = data["query_rows"], data["gallery_rows"]
        rows = data["embeddings"].astype(dtype)
        return arguments | {
            "embeddings": rows[query],
            "gallery": rows[gallery],
            "labels": data["multi_labels"][query],
            "gallery_labels": data["multi_labels"][gallery],
            "ids": query,
            "gallery_ids": gallery,
            "sequences": data["sequence"][query],
            "gallery_sequences": data["sequence"][gallery],
        }
    arguments |= {
        "embeddings": data["query_embeddings"].astype(dtype),
        "gallery": data["gallery_embeddings"].astype(dtype),
    }
    if case == 9:
        status = data["status"]
        relevant = {"E": [1], "M": [1, 2], "H": [2]}[prefix[0]]
        junk = {"E": [2, 3], "M": [3], "H": [1, 3]}[prefix[0]]
        return arguments | {"relevant": np.isin(status, relevant), "junk": np.isin(status, junk)}
    arguments |= {"labels": data["query_labels"], "gallery_labels": data["gallery_labels"]}
    if case == 6:
        arguments |= {"ids": data["query_ids"], "gallery_ids": data["gallery_ids"]}
    if case in (7, 8):
        arguments |= {"cameras": data["query_cams"], "gallery_cameras": data["gallery_cams"]}
    return arguments


def evaluate(arguments: dict[str, Any], **more: Any) -> RetrievalResult:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TieWarning)
        return retrieval(**arguments, **more)
