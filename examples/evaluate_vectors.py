"""Honest numbers for vectors from anywhere: queries against a gallery, with intervals.

python examples/evaluate_vectors.py
"""

import numpy as np

import nearfar

rng = np.random.default_rng(0)
centres = rng.normal(size=(50, 32))
labels = np.repeat(np.arange(50), 6)
gallery = centres[labels] + rng.normal(size=(300, 32))
query_labels = np.arange(55)  # the last five have nothing to find: they are counted and left out
queries = np.concatenate([centres, rng.normal(size=(5, 32))]) + rng.normal(size=(55, 32))

result = nearfar.evaluate.retrieval(
    queries.astype(np.float32),
    query_labels,
    gallery=gallery.astype(np.float32),
    gallery_labels=labels,
    ks=(1, 5, 10),
    bootstrap=1000,
)
print(result)
