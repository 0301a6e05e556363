#!/usr/bin/env bash
# faiss-cpu 1.15.1: which of several equal vectors IndexFlatIP puts first depends on k.
#
# Expected: the nearest neighbour is the same whether one or ten are asked for, and among equals the first
# row wins, as in IndexFlatL2. (Equals are common: duplicate pictures, embeddings in few bits, a collapsed
# model.)
# Seen: of five equal rows k=1 gives [0], k=2 [1, 0], k=5 [4, 3, 2, 1, 0]; L2 gives [0], [0, 1], [0, 1, 2,
# 3, 4]. Where the gallery holds each picture twice, under the label of the query and then under another
# one, recall@1 is 1.0 from a search with k=1, and 0.0 from the first column of a search with k=2.
# nearfar: `nearfar.evaluate` orders ties by the gallery's rows whatever k is, or takes `ties="optimistic"`,
# "pessimistic" or "expected", and warns where the answer depends on them.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet faiss-cpu==1.15.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import sys

import faiss
import numpy as np

print(f"faiss {faiss.__version__}, numpy {np.__version__}")


def neighbours(kind, rows, k, queries):
    index = kind(rows.shape[1])
    index.add(rows)
    return index.search(queries, k)[1]


same = np.tile(np.eye(4, dtype=np.float32)[:1], (5, 1))
first = {}
for kind in (faiss.IndexFlatIP, faiss.IndexFlatL2):
    for k in (1, 2, 5):
        found = neighbours(kind, same, k, same[:1])[0].tolist()
        first[kind, k] = found[0]
        print(f"five equal rows, {kind.__name__}, k={k}: {found}")

pictures, label = np.eye(64, dtype=np.float32), np.repeat([0, 1], 64)
recall = {}
for kind in (faiss.IndexFlatIP, faiss.IndexFlatL2):
    for k in (1, 2):
        found = neighbours(kind, np.concatenate([pictures, pictures]), k, pictures)
        recall[kind, k] = float(np.mean(label[found[:, 0]] == 0))
        print(f"each picture twice, {kind.__name__}, k={k}: recall@1 {recall[kind, k]}")

as_described = [first[faiss.IndexFlatIP, k] for k in (1, 2, 5)] == [0, 1, 4]
as_described &= [first[faiss.IndexFlatL2, k] for k in (1, 2, 5)] == [0, 0, 0]
as_described &= list(recall.values()) == [1.0, 0.0, 1.0, 1.0]
if not as_described:
    sys.exit("changed: the first of equal rows no longer depends on k as described")
PYTHON
