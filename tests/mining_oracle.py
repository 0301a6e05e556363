"""Mining rules as loops over a table of similarities: what the tests of mining compare with."""

import math
from dataclasses import dataclass

from torch import Tensor

from nearfar.pairs import Pairs
from nearfar.similarity import ArgMax, TopK

Pair = tuple[int, int]


@dataclass
class Selection:
    """What a rule leaves: positive and negative pairs, and triplets where it chooses a negative per positive."""

    positives: set[Pair]
    negatives: set[Pair]
    triplets: set[tuple[int, int, int]] | None = None


def left(pairs: Pairs) -> Selection:
    """Read off what narrowed pairs still hold."""
    anchors, candidates = pairs.positives.anchor.tolist(), pairs.positives.candidate.tolist()
    positives = set(zip(anchors, candidates, strict=True))
    (columns,) = pairs.stream(TopK(len(pairs.block.candidates)))
    negatives = {(i, j) for i, row in enumerate(columns.tolist()) for j in row if j >= 0}
    if pairs.chosen is None or pairs.chosen.per == "anchor":
        return Selection(positives, negatives)
    (partner,) = pairs.stream(ArgMax(per="positive"))
    return Selection(positives, negatives, set(zip(anchors, candidates, partner.tolist(), strict=True)))


def kinds(labels: Tensor) -> tuple[dict[int, list[int]], dict[int, list[int]]]:
    """List the positives and the negatives of each anchor of a batch."""
    n = len(labels)
    positives = {i: [j for j in range(n) if j != i and labels[i] == labels[j]] for i in range(n)}
    negatives = {i: [j for j in range(n) if labels[i] != labels[j]] for i in range(n)}
    return positives, negatives


def hard(s, labels, keep_positives="hard", keep_negatives="hard") -> Selection:
    p, n = kinds(labels)
    if keep_positives == "hard":
        p = {i: sorted(js, key=lambda j: s[i][j])[:1] for i, js in p.items()}
    if keep_negatives == "hard":
        n = {i: sorted(js, key=lambda j: -s[i][j])[:1] for i, js in n.items()}
    return _both(p, n)


def easy(s, labels, keep_positives="easy", keep_negatives="easy") -> Selection:
    p, n = kinds(labels)
    if keep_positives == "easy":
        p = {i: sorted(js, key=lambda j: -s[i][j])[:1] for i, js in p.items()}
    if keep_negatives == "easy":
        n = {i: sorted(js, key=lambda j: s[i][j])[:1] for i, js in n.items()}
    return _both(p, n)


def easy_positive(s, labels, keep_negatives="semi_hard") -> Selection:
    p, n = kinds(labels)
    found = Selection(set(), set())
    for i in p:
        if not p[i]:
            continue
        nearest = max(p[i], key=lambda j: s[i][j])
        farther = [j for j in n[i] if keep_negatives == "hard" or s[i][j] < s[i][nearest]]
        if farther:
            found.positives.add((i, nearest))
            found.negatives.add((i, max(farther, key=lambda j: s[i][j])))
    return found


def semi_hard(s, labels, margin=0.2, otherwise="drop") -> Selection:
    p, n = kinds(labels)
    triplets = set()
    for i in p:
        for j in p[i]:
            farther = [k for k in n[i] if s[i][k] < s[i][j]]
            if otherwise == "drop":
                farther = [k for k in farther if s[i][k] > s[i][j] - margin]
            if farther:
                triplets.add((i, j, max(farther, key=lambda k: s[i][k])))
            elif n[i] and otherwise == "farthest":
                triplets.add((i, j, min(n[i], key=lambda k: s[i][k])))
    return Selection({(i, j) for i, j, _ in triplets}, {(i, k) for i, _, k in triplets}, triplets)


def multi_similarity(s, labels, epsilon=0.1) -> Selection:
    p, n = kinds(labels)
    found = Selection(set(), set())
    for i in p:
        found.positives |= {(i, j) for j in p[i] if any(s[i][j] - epsilon < s[i][k] for k in n[i])}
        found.negatives |= {(i, k) for k in n[i] if any(s[i][k] + epsilon > s[i][j] for j in p[i])}
    return found


def top_k(s, labels, keep_negatives=10, keep_positives=None) -> Selection:
    p, n = kinds(labels)
    n = {i: sorted(js, key=lambda j: -s[i][j])[:keep_negatives] for i, js in n.items()}
    if keep_positives is not None:
        p = {i: sorted(js, key=lambda j: s[i][j])[:keep_positives] for i, js in p.items()}
    return _both(p, n)


def interval(s, labels, above=-math.inf, below=math.inf, positives_above=-math.inf, positives_below=math.inf):
    p, n = kinds(labels)
    return _both(
        {i: [j for j in js if positives_above < s[i][j] < positives_below] for i, js in p.items()},
        {i: [j for j in js if above < s[i][j] < below] for i, js in n.items()},
    )


def relative(
    s,
    labels,
    positive_method="all",
    negative_method="relative_hard",
    positive_over="anchor",
    negative_over="anchor",
    keep_positives=0.5,
    keep_negatives=0.5,
    positive_shift=0.0,
    negative_shift=0.0,
    **_,
) -> Selection:
    p, n = kinds(labels)
    kept: dict[str, dict[int, list[int]]] = {}
    for kind, own, other, method, over, keep, shift in [
        ("positives", p, n, positive_method, positive_over, keep_positives, positive_shift),
        ("negatives", n, p, negative_method, negative_over, keep_negatives, negative_shift),
    ]:
        # Turned so that harder is larger: a positive is harder the less similar it is.
        sign = -1 if kind == "positives" else 1
        kept[kind] = {}
        for i in own:
            rows = own if over == "batch" else [i]
            mine = sorted((sign * s[a][b] for a in rows for b in own[a]), reverse=True)
            theirs = [sign * s[a][b] for a in rows for b in other[a]]
            count = keep if isinstance(keep, int) else math.ceil(round(keep * len(mine), 6))
            count = min(count, len(mine))
            hardest, easiest = (mine[count - 1], mine[-count]) if mine else (0, 0)
            moved = sign * shift
            extreme = min(theirs, default=math.inf)
            test = {
                "all": lambda v: True,
                "hard": lambda v, t=extreme + moved: v > t,
                "easy": lambda v, t=extreme + moved: v <= t,
                "relative_hard": lambda v, t=hardest + moved: v >= t,
                "relative_easy": lambda v, t=easiest + moved: v <= t,
            }[method]
            kept[kind][i] = [j for j in own[i] if test(sign * s[i][j])]
    return _both(kept["positives"], kept["negatives"])


def _both(p: dict[int, list[int]], n: dict[int, list[int]]) -> Selection:
    return Selection({(i, j) for i, js in p.items() for j in js}, {(i, j) for i, js in n.items() for j in js})


def table(x: Tensor, measure: str) -> list[list[float]]:
    """Similarities of every row with every row."""
    if measure == "cosine":
        x = x / x.norm(dim=1, keepdim=True)
    if measure in ("cosine", "dot"):
        return (x @ x.T).tolist()
    square = (x[:, None] - x[None]).square().sum(2)
    return (-square.sqrt() if measure == "euclidean" else -square).tolist()


rules = {
    f.__name__: f for f in (hard, easy, easy_positive, semi_hard, multi_similarity, top_k, interval, relative)
}
