"""The N-pair layer of Caffe by its definition: loops over queries in single precision, one set of rows a rank."""

from dataclasses import dataclass, field

import numpy as np

METHODS = ["HARD", "EASY", "RAND", "RELATIVE_HARD", "RELATIVE_EASY"]
REGIONS = ["LOCAL", "GLOBAL"]
TOPS = ["loss", "retrieval_top1", "retrieval_top5", "retrieval_top10", "feature_asum"]
HIGHEST = np.finfo(np.float32).max


@dataclass
class Settings:
    margin_ident: float = 0.0
    margin_diff: float = 0.0
    identsn: float = -1.0
    diffsn: float = -1.0
    ap_mining_region: str = "LOCAL"
    ap_mining_method: str = "RAND"
    an_mining_region: str = "LOCAL"
    an_mining_method: str = "RAND"


def settings_of(row: np.ndarray, config: dict) -> Settings:
    """Read one row of the parameters that golden cases hold."""
    k = dict(zip(config["param_columns"], row.tolist(), strict=True))
    region, method = config["regions"], config["methods"]
    return Settings(
        k["margin_ident"],
        k["margin_diff"],
        k["identsn"],
        k["diffsn"],
        region[int(k["ap_region"])],
        method[int(k["ap_method"])],
        region[int(k["an_region"])],
        method[int(k["an_method"])],
    )


def problem(seed: int, n: int | None = None) -> tuple[np.ndarray, np.ndarray, Settings]:
    """Make exact dot products, so that ties are ties: a grid, some un-normalised, some with huge labels."""
    random = np.random.default_rng(seed)
    n, dim = int(random.integers(2, 15)) if n is None else n, int(random.integers(2, 7))
    x = random.integers(-16, 17, size=(n, dim)) / np.float32(16) * random.choice([0.5, 1, 8])
    if seed % 3 == 0:
        x = np.abs(x)
    labels = random.integers(0, random.integers(1, 6), size=n) + random.choice([0, 2**24 - 1])
    number = random.choice([-1.0, -0.5, -0.3, -0.0, 0.5, 1.0, 2.0, 40.0], size=2)
    margin = random.choice([-0.25, 0.0, 0.0, 0.125], size=2)
    word = [str(random.choice(some)) for some in (REGIONS, METHODS, REGIONS, METHODS)]
    return x.astype(np.float32), labels, Settings(*margin.tolist(), *number.tolist(), *word)


@dataclass
class Rank:
    """What the layer gives on one rank; the sums are A_i and T_i, relative to the largest exponential."""

    loss: float
    retrieval: list[float]
    asum: float
    selected: np.ndarray
    weights: np.ndarray
    positive_sums: np.ndarray
    sums: np.ndarray
    grad: np.ndarray = field(default_factory=lambda: np.empty(0))


def has_digits(rank: Rank) -> bool:
    """Whether the layer's sums are no subnormal numbers, which single precision holds with few digits."""
    return not any(((sums > 0) & (sums < 1e-30)).any() for sums in (rank.positive_sums, rank.sums))


def layer(rows: list[np.ndarray], labels: list[np.ndarray], settings: Settings, parity: bool) -> list[Rank]:
    """Return the tops and the gradient of each rank.

    Args:
        rows: the embeddings [n, dim] of each rank.
        labels: of each rank.
    """
    y = np.concatenate(rows).astype(np.float32)
    r = np.concatenate(labels)
    r = r.astype(np.float32) if parity else r.astype(np.int64)
    starts = np.cumsum([0, *(len(x) for x in rows)])
    ranks = [
        one_rank(x.astype(np.float32), y, r, start, settings, parity)
        for x, start in zip(rows, starts[:-1], strict=True)
    ]
    shared = sum(rank.weights.T @ x.astype(np.float64) for rank, x in zip(ranks, rows, strict=True))
    for rank, x, start in zip(ranks, rows, starts[:-1], strict=True):
        u, v = rank.weights @ y.astype(np.float64), shared[start : start + len(x)]
        rank.grad = 0.5 * u + 0.5 * v / len(rows) if parity else u + v
    return ranks


def one_rank(x, y, r, start, settings, parity):
    n, m = len(x), len(y)
    s = x @ y.T
    own = np.arange(m)[None] == start + np.arange(n)[:, None]
    same = (r[start : start + n, None] == r[None]) & ~own
    other = (r[start : start + n, None] != r[None]) & ~own
    tp, tn = thresholds(s, same, other, settings, parity)
    p = same & kept_positive(s, (tp + np.float32(settings.margin_ident))[:, None], settings.ap_mining_method)
    q = other & kept_negative(s, (tn + np.float32(settings.margin_diff))[:, None], settings.an_mining_method)
    highest = np.where(own, -HIGHEST, s).max(1, keepdims=True)
    if parity:
        with np.errstate(over="ignore", under="ignore"):
            e = np.where(own, 0, np.exp((s - highest).astype(np.float32))).astype(np.float64)
    else:
        e = np.where(own, 0.0, np.exp(s.astype(np.float64) - highest))
    a, t = (p * e).sum(1), ((p | q) * e).sum(1)
    some = (a != 0) & (t != 0)
    value = np.where(some, -np.log(np.where(some, a, 1) / np.where(t != 0, t, 1)), 0)
    inverse_a, inverse_t = (np.divide(1, z, out=np.zeros_like(z), where=z != 0)[:, None] for z in (a, t))
    weights = e * (p * (inverse_t - inverse_a) + q * inverse_t) / n
    if not parity:
        weights *= some[:, None]
    return Rank(
        loss=float(value.sum() / n),
        retrieval=[
            float(np.mean([hit(e[i], s[i], same[i], own[i], k, parity) for i in range(n)]))
            for k in (1, 5, 10)
        ],
        asum=float(np.abs(x).sum() / n),
        selected=p | q,
        weights=weights,
        positive_sums=a,
        sums=t,
    )


def hit(e, s, same, own, k, parity):
    if not same.any():
        return False
    if not parity:
        return int((s[~same & ~own] >= s[same].max()).sum()) < k
    ordered = np.sort(e[~own])[::-1]
    return bool((e[same] > ordered[min(k, len(ordered) - 1)]).any())


def thresholds(s, same, other, settings, parity):
    n = len(s)
    tp, tn = np.empty(n, np.float32), np.empty(n, np.float32)
    for i in range(n):
        rows = slice(None) if settings.ap_mining_region == "GLOBAL" else slice(i, i + 1)
        tp[i] = threshold(
            s[rows][same[rows]],
            s[rows][other[rows]],
            settings.ap_mining_method,
            settings.identsn,
            parity,
            "max",
            hardest_is_low=True,
        )
        rows = slice(None) if settings.an_mining_region == "GLOBAL" else slice(i, i + 1)
        tn[i] = threshold(
            s[rows][other[rows]],
            s[rows][same[rows]],
            settings.an_mining_method,
            settings.diffsn,
            parity,
            "min",
            hardest_is_low=False,
        )
    return tp, tn


def threshold(own, across, method, sn, parity, extreme, *, hardest_is_low):
    if not method.startswith("RELATIVE"):
        if extreme == "max":
            return across.max() if len(across) else -HIGHEST
        return across.min() if len(across) else HIGHEST
    if not len(own):
        return -HIGHEST
    ascending, n = np.sort(own), len(own)
    if parity:
        place = n - 1 - int(sn) if sn >= 0 else int(np.float32(n - 1) + np.float32(sn) * np.float32(n))
        value = ascending[min(max(place, 0), n - 1)]
        return value if value >= 0 else -HIGHEST
    from_low = (method == "RELATIVE_HARD") == hardest_is_low
    if 0 <= sn < 1:  # the threshold is the most similar pair
        return ascending[-1]
    kept = min(int(sn) if sn > 0 else int(np.ceil(min(-sn, 1.0) * n - 1e-9)), n)
    return ascending[kept - 1] if from_low else ascending[n - kept]


def kept_positive(s, t, method):
    match method:
        case "RAND":
            return np.ones_like(s, bool)
        case "HARD":
            return s < t
        case "RELATIVE_HARD":
            return s <= t
    return s >= t


def kept_negative(s, t, method):
    match method:
        case "RAND":
            return np.ones_like(s, bool)
        case "HARD":
            return s > t
        case "RELATIVE_HARD":
            return s >= t
    return s <= t
