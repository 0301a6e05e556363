"""The golden retrieval problems: every metric, tie rule, mean and protocol, from float32 and float64 inputs."""

import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from ranking_problems import evaluate, load, problem

TIES = ("index", "optimistic", "pessimistic", "expected")
AT_K = {
    "hit": "recall_at_k",
    "prec": "precision_at_k",
    "prec_minRk": "precision_at_min_r_k",
    "irrecall": "irrecall_at_k",
    "ap_R": "map_at_k_over_r",
    "ap_minRk": "map_at_k_over_min_r_k",
    "ap_hits": "map_at_k_over_hits",
    "ndcg": "ndcg_at_k",
}
WHOLE = {
    "rprec": "r_precision",
    "mapr": "map_at_r",
    "ap": "map",
    "ap_trap": "map_trapezoid",
    "rr": "mrr",
    "inp": "minp",
}


CASES = [
    (case, prefix) for case in range(1, 11) for prefix in (("E__", "M__", "H__") if case == 9 else ("",))
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("case", "prefix"), CASES)
def test_every_metric_of_every_tie_rule(case: int, prefix: str, dtype: type) -> None:
    data = load(case)
    arguments = problem(case, data, dtype, prefix)
    compared = 0
    for ties in TIES:
        skip = evaluate(arguments, ties=ties, cmc_length=max(arguments["ks"]))
        zero = evaluate(arguments, ties=ties, no_relevant="zero")
        macro = evaluate(arguments, ties=ties, average="macro")
        means = {"mean_skip": skip, "mean_zero": zero, "macro_skip": macro}
        for name, ours in (AT_K | WHOLE).items():
            key = f"{ties}__{name}"
            if f"{prefix}pq__{key}" not in data:
                assert ties == "expected"  # golden has no closed form of ndcg, ap_trap, ap_hits, prec_minRk
                continue
            expected = data[f"{prefix}pq__{key}"]
            for i, k in enumerate(arguments["ks"]) if name in AT_K else [(None, None)]:
                field = ours.replace("_k", f"_{k}")
                each = expected if i is None else expected[:, i]
                assert_allclose(skip.per_query[field], each, atol=1e-9, rtol=0, err_msg=f"{key} {k}")
                for kind, result in means.items():
                    value = data[f"{prefix}{kind}__{key}"]
                    got = getattr(result, ours)
                    got, value = (got, value) if i is None else (got[k], value[i])
                    assert_allclose(got, value, atol=1e-9, rtol=0, err_msg=f"{kind} {key} {k}")
                    compared += 1
                if name == "hit":
                    assert_allclose(skip.cmc[k - 1], data[f"{prefix}mean_skip__{key}"][i], atol=1e-9, rtol=0)
        assert_allclose(skip.tie_sensitive_fraction, data[f"{prefix}tie_sensitive_fraction"], atol=1e-12)
        assert_array_equal(skip.relevant_per_query, data[f"{prefix}R"])
        assert skip.n_skipped == np.count_nonzero(data[f"{prefix}R"] == 0)
    assert compared > 400 or case in (7, 8, 9)
