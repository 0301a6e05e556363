"""Relative mining: pairs beyond the k-th of their kind, or beyond the hardest pair of the other kind."""

from math import inf
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nearfar.errors import NearfarError
from nearfar.mining.places import ascending, counts
from nearfar.mining.registry import register_rule
from nearfar.mining.rounding import slack
from nearfar.pairs import Pairs
from nearfar.positive_table import PositiveTable
from nearfar.similarity import Count, Max, OrderStatistic
from nearfar.similarity.stable import taken

Method = Literal["all", "hard", "easy", "relative_hard", "relative_easy"]
Over = Literal["anchor", "batch"]
Ranking = Literal["keep", "caffe"]


@register_rule(table=True)
def relative(
    pairs: Pairs,
    *,
    positive_method: Method = "all",
    negative_method: Method = "relative_hard",
    positive_over: Over = "anchor",
    negative_over: Over = "anchor",
    keep_positives: int | float = 0.5,
    keep_negatives: int | float = 0.5,
    positive_shift: float = 0.0,
    negative_shift: float = 0.0,
    ranking: Ranking = "keep",
    negative_threshold: Literal["value", "all"] = "value",
) -> Pairs:
    """Keep pairs on one side of a threshold that their own batch sets.

    With t⁺ and t⁻ the thresholds, shifts added, s_ij the similarity, P_i and N_i the positives and negatives
    of anchor i:

        method          positive j∈P_i kept when    t⁺ is            negative j∈N_i kept when    t⁻ is
        all             always                                       always
        hard            s_ij < t⁺                   max_{n∈N_i} s    s_ij > t⁻                   min_{p∈P_i} s
        easy            s_ij ≥ t⁺                   max_{n∈N_i} s    s_ij ≤ t⁻                   min_{p∈P_i} s
        relative_hard   s_ij ≤ t⁺                   k-th of P_i      s_ij ≥ t⁻                   k-th of N_i
        relative_easy   s_ij ≥ t⁺                   k-th of P_i      s_ij ≤ t⁻                   k-th of N_i

    A relative method keeps the k hardest (easiest) of its kind and all that tie with the k-th; what differs
    by rounding alone is equal. Thresholds over the batch take the extreme, or the k-th, of all anchors' pairs
    together. A threshold over nothing is -∞ for max and +∞ for min.

    Args:
        positive_method, negative_method: method for each kind.
        positive_over, negative_over: whether a threshold is each anchor's own or the whole batch's.
        keep_positives, keep_negatives: k (>= 1, a whole number) or a fraction f in (0, 1] of those there are,
            rounded up, for relative methods. More than there are keeps all.
        positive_shift, negative_shift: added to the threshold, in units of the similarity.
        ranking: "caffe" reads keep_positives and keep_negatives as the Caffe layer's ``identsn`` and
            ``diffsn``, for parity: the threshold is the (1 + k)-th *largest* for k >= 0, the (1 + ⌈f n⌉)-th
            largest of n for -f < 0, whatever the method. So one more is kept, and of relative_hard positives
            and relative_easy negatives the k largest are left out. Beyond either end, the end is taken.
        negative_threshold: "all" takes a k-th value below 0 as -∞, as the Caffe layer does.

    Raises:
        NearfarError: if a number to keep is out of range.

    Reference:
        NPairMultiClassLoss, a Caffe layer. https://github.com/tengsz/NPairLoss
    """
    _check_keep("keep_positives", keep_positives, ranking)
    _check_keep("keep_negatives", keep_negatives, ranking)
    whole, near = negative_threshold == "all", slack(pairs)
    keep = above = below = None
    if positive_method != "all":
        if positive_method in ("relative_hard", "relative_easy"):
            pairs = pairs.short(wait=False)
        s = pairs.positives.plain
        from_top = positive_method == "relative_easy"
        if positive_method in ("hard", "easy"):
            t = _nearest_negative(pairs, positive_over)
        else:
            t = _ranked_positive(pairs, positive_over, keep_positives, ranking, from_top)
            t = t.masked_fill(t < 0, -inf) if whole else t
        t, equal = pairs.of_anchor(t + positive_shift), pairs.of_anchor(near)
        keep = {"hard": s < t - equal, "relative_hard": s <= t + equal}.get(positive_method, s >= t - equal)
    if negative_method != "all":
        from_top = negative_method == "relative_hard"
        if negative_method in ("hard", "easy"):
            t = _farthest_positive(pairs, negative_over)
        else:
            t = _ranked_negative(pairs, negative_over, keep_negatives, ranking, from_top)
            t = t.masked_fill(t < 0, -inf) if whole else t
        t = t + negative_shift
        if negative_method in ("easy", "relative_easy"):
            below = t + near
        else:
            above = t + near if negative_method == "hard" else t - near
    return pairs.narrow(positives=keep, above=above, below=below)


def _nearest_negative(pairs: Pairs, over: Over) -> Float[Tensor, " anchor"]:
    (t,) = pairs.stream(Max())
    t = t.detach()
    return t if over == "anchor" or not len(t) else t.max().expand(len(t))


def _farthest_positive(pairs: Pairs, over: Over) -> Float[Tensor, " anchor"]:
    t = pairs.per_anchor(pairs.positives.plain, "min")
    return t if over == "anchor" or not len(t) else t.min().expand(len(t))


def _ranked_negative(
    pairs: Pairs, over: Over, keep: float, ranking: Ranking, from_top: bool
) -> Float[Tensor, " anchor"]:
    (count,) = pairs.stream(Count())
    number = count.long() if over == "anchor" else count.long().sum()
    rank = _rank(number, keep, ranking, from_top)
    (t,) = pairs.stream(OrderStatistic(rank, over=over))
    return t.detach()


def _ranked_positive(
    pairs: Pairs, over: Over, keep: float, ranking: Ranking, from_top: bool
) -> Float[Tensor, " anchor"]:
    kept, count = pairs.positives, counts(pairs)
    s = kept.plain
    if not s.numel():
        return s.new_full((len(count),), -inf)
    if isinstance(kept, PositiveTable):
        s = s.masked_fill(kept.absent, -inf)
    if over == "batch":
        place = _rank(count.sum(), keep, ranking, from_top) - 1
        return taken(s.flatten().sort(descending=True).values, place[None]).expand(len(count))
    place = _rank(count, keep, ranking, from_top) - 1
    if s.ndim == 2:
        return s.sort(1, descending=True).values.gather(1, place[:, None]).squeeze(1)
    place = (place + count.cumsum(0) - count).clamp_max(len(s) - 1)
    return taken(s[ascending(pairs, -s)], place).masked_fill(count == 0, -inf)


def _rank(number: Int[Tensor, "*any"], keep: float, ranking: Ranking, from_top: bool) -> Int[Tensor, "*any"]:
    """Return which of ``number`` values is the threshold, 1 for the largest."""
    if ranking == "caffe":
        n = number.float()  # the layer counts in single precision and cuts towards 0
        place = n - 1 - int(keep) if keep >= 0 else (n - 1 + keep * n).trunc()
        rank = number - place.long()
    else:
        # A hair less, so that 0.1 of 30, in binary a hair more than 3, is 3.
        share = (keep * number.double() - 1e-9).ceil().long()
        kept = torch.full_like(number, keep) if isinstance(keep, int) else share
        rank = kept if from_top else number - kept + 1
    return torch.minimum(rank, number).clamp_min(1)


def _check_keep(name: str, keep: float, ranking: Ranking) -> None:
    if ranking == "caffe":
        return
    if not (keep >= 1 if isinstance(keep, int) else 0 < keep <= 1):
        raise NearfarError(
            f"{name} must be a whole number of 1 or more, or a fraction in (0, 1]; got {keep!r}. "
            "The Caffe layer's numbers need ranking='caffe'."
        )
