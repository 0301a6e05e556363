"""NPairMultiClassLoss: the N-pair layer with mining, over the batch of all ranks."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor, nn

from nearfar.caffe.layers.bottoms import check_word, classes_of, numbered, rows_of
from nearfar.caffe.layers.gradients import replaced, scaled
from nearfar.caffe.layers.retrieved import hits, overflowing, shown_to_the_layer
from nearfar.caffe.published import METHODS, REGIONS
from nearfar.criterion.ahead import with_gradient
from nearfar.criterion.finite import judge, verdict
from nearfar.distributed import gather_rows, rank, row_counts, total
from nearfar.errors import NearfarError
from nearfar.losses.npair_mined import npair_mined
from nearfar.mining import Rule, create
from nearfar.pairs import Pairs
from nearfar.similarity import TopK, choose
from nearfar.similarity.threads import plainly
from nearfar.similarity.tiled.block import TiledBlock

TOPS = ("loss", "retrieval_top1", "retrieval_top5", "retrieval_top10", "feature_asum")
DEPTHS = (1, 5, 10)


class NPairMultiClassLoss(nn.Module):
    """N-pair loss over mined pairs, as the MPI layer of that name; streamed, without an N×M matrix.

    With s_ij the dot product of query i (this rank's rows) with row j of all ranks, never the query itself,
    P_i and N_i the selected pairs of equal and of different label:

        loss = 1/N Σ_i -log( Σ_{j∈P_i} exp(s_ij) / Σ_{j∈P_i∪N_i} exp(s_ij) )

    What is selected is said in ``nearfar.mining.describe("relative")``: HARD, EASY and the RELATIVE methods
    by thresholds of each query (LOCAL) or of all of this rank's queries together (GLOBAL), RAND everything.

    The gradient is that of the sum of all ranks' losses, so that the mean over ranks that data-parallel
    training takes is the gradient of the mean loss; every rank must run the backward pass. No gradient flows
    through thresholds or metrics.

    Args:
        margin_ident, margin_diff: added to the thresholds of positives and of negatives.
        identsn, diffsn: how many pairs the RELATIVE methods keep: k >= 1, or -f for a fraction f of them,
            rounded up. 0 puts the threshold at the most similar pair.
        ap_mining_region, an_mining_region: "LOCAL" or "GLOBAL", of positives and of negatives.
        ap_mining_method, an_mining_method: "HARD", "EASY", "RAND", "RELATIVE_HARD" or "RELATIVE_EASY".
        parity: give the original's numbers: half the gradient, 1/ranks of it where a row is compared with;
            queries without positives push their negatives away; thresholds of k + 1 and of no negative
            value; labels in single precision; hits counted with its ties. See docs/from-caffe.md.
        tops: how many tops to give, 1 to 5. The last is ``feature_asum`` where there are two or more; with
            one, parity gives *its* value with the gradient of the loss, as the original does.
        backend: what computes it; see ``nearfar.losses.create``.

    Raises:
        NearfarError: if a setting is not one of those above.

    Reference:
        NPairMultiClassLoss, a Caffe layer. https://github.com/tengsz/NPairLoss
    """

    def __init__(
        self,
        margin_ident: float = 0.0,
        margin_diff: float = 0.0,
        identsn: float = -1.0,
        diffsn: float = -1.0,
        ap_mining_region: str = "LOCAL",
        ap_mining_method: str = "RAND",
        an_mining_region: str = "LOCAL",
        an_mining_method: str = "RAND",
        parity: bool = False,
        *,
        tops: int = len(TOPS),
        backend: str = "auto",
    ) -> None:
        super().__init__()
        for kind, region, method in [
            ("ap", ap_mining_region, ap_mining_method),
            ("an", an_mining_region, an_mining_method),
        ]:
            check_word("NPairMultiClassLoss", f"{kind}_mining_region", region, tuple(REGIONS))
            check_word("NPairMultiClassLoss", f"{kind}_mining_method", method, tuple(METHODS))
        if not 1 <= tops <= len(TOPS):
            raise NearfarError(f"NPairMultiClassLoss gives 1 to {len(TOPS)} tops; got tops={tops}.")
        for name, number in [
            ("margin_ident", margin_ident),
            ("margin_diff", margin_diff),
            ("identsn", identsn),
            ("diffsn", diffsn),
        ]:
            if not abs(number) < 2**31:
                raise NearfarError(
                    f"NPairMultiClassLoss: {name} must be a finite number below 2^31; got {number}."
                )
        self.parity, self.tops, self.backend = parity, tops, backend
        self.rule = _rule(
            {
                "positive_method": METHODS[ap_mining_method],
                "negative_method": METHODS[an_mining_method],
                "positive_over": REGIONS[ap_mining_region],
                "negative_over": REGIONS[an_mining_region],
                "positive_shift": margin_ident,
                "negative_shift": margin_diff,
            },
            identsn,
            diffsn,
            parity,
        )

    def forward(
        self, features: Float[Tensor, "n *dim"], labels: Shaped[Tensor, "n *one"]
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the tops in the order of the layer: loss, retrieval_top1, 5 and 10, feature_asum.

        Where a feature of any rank is not finite, they are NaN, and so is the gradient.

        Args:
            features: [N, ...], taken as they are: put ``L2Normalize`` before it.
            labels: N whole numbers.

        Raises:
            NearfarError: if features and labels do not fit.
        """
        given, classes, counts = self._bottoms(features, labels)
        judged = judge((given,))
        if len(counts) > 1:
            judged = verdict(not total(given.new_tensor([not judged.is_finite])).any())
        x = judged.rows(given)
        metrics: list[Tensor] = []

        def value(inputs: Sequence[Tensor]) -> Tensor:
            pairs = self._pairs(inputs[0], classes, counts, self.backend)
            plain = pairs.detach()
            highest = overflowing(plain) if self.parity else None
            if self.tops > 2:
                metrics.extend(hits(plain, DEPTHS[: self.tops - 2], self.parity, highest))
            mined = self.rule(pairs)
            if highest is not None:
                mined = shown_to_the_layer(mined, highest)
            return npair_mined(mined, orphan_repulsion=self.parity).sum() / max(1, len(x))

        with torch.autocast(x.device.type, enabled=False):
            if choose(self.backend, len(x), len(classes)) is TiledBlock:
                with plainly():
                    loss = with_gradient(value, [x])
            else:
                loss = value([x])
        asum = given.detach().abs().sum() / max(1, len(x))
        loss, metrics = judged.value(loss), [judged.value(each) for each in metrics]
        if self.tops == 1:
            return {"loss": replaced(loss, asum) if self.parity else loss}
        return dict(zip([*TOPS[: self.tops - 1], TOPS[-1]], [loss, *metrics, asum], strict=True))

    @torch.no_grad()
    def selected(
        self, features: Float[Tensor, "n *dim"], labels: Shaped[Tensor, "n *one"]
    ) -> Bool[Tensor, "n m"]:
        """Say which pairs are selected, positives and negatives, for inspection of small batches.

        Raises:
            NearfarError: if features and labels do not fit.
        """
        x, classes, counts = self._bottoms(features, labels)
        n, m = len(x), len(classes)
        mask = torch.zeros(n, m + 1, dtype=torch.bool, device=x.device)
        with torch.autocast(x.device.type, enabled=False):
            pairs = self.rule(self._pairs(x, classes, counts, "dense"))
            mask[pairs.positives.anchor, pairs.positives.candidate] = True
            (columns,) = pairs.stream(TopK(m))
        mask.scatter_(1, columns.masked_fill(columns < 0, m), True)
        return mask[:, :m]

    def extra_repr(self) -> str:
        """Show the mining rule and whether it is the original's."""
        return f"{self.rule}, parity={self.parity}, tops={self.tops}"

    def _bottoms(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, list[int]]:
        """Return this rank's rows, the classes of all ranks' rows, and how many rows each rank has."""
        x = rows_of(features, "NPairMultiClassLoss")
        own = classes_of(labels, len(x), "NPairMultiClassLoss", single_precision=self.parity)
        counts = row_counts(x)
        return x, numbered(gather_rows(own, counts)), counts

    def _pairs(self, x: Tensor, classes: Tensor, counts: list[int], backend: str) -> Pairs:
        """Compare this rank's rows with those of all ranks; parity scales what flows back on each side."""
        if len(counts) == 1:
            return Pairs.within(
                scaled(x, 0.5) if self.parity else x, classes, similarity="dot", backend=backend
            )
        own = torch.arange(len(x), device=x.device) + sum(counts[: rank()])
        queries, shared = (scaled(x, 0.5), scaled(x, 0.5 / len(counts))) if self.parity else (x, x)
        return Pairs.between(
            queries,
            classes[own],
            gather_rows(shared, counts),
            classes,
            own,
            similarity="dot",
            backend=backend,
        )


def _rule(settings: dict[str, str | float], identsn: float, diffsn: float, parity: bool) -> Rule:
    if parity:
        settings |= {"keep_positives": identsn, "keep_negatives": diffsn}
        settings |= {"ranking": "caffe", "negative_threshold": "all"}
    else:
        # A threshold at the most similar pair leaves one pair at or above it, and all at or below it.
        all_positives = settings["positive_method"] == "relative_hard"
        all_negatives = settings["negative_method"] == "relative_easy"
        settings |= {
            "keep_positives": _kept(identsn, at_zero=1.0 if all_positives else 1),
            "keep_negatives": _kept(diffsn, at_zero=1.0 if all_negatives else 1),
        }
    rule = create({"name": "relative", **settings})
    assert rule is not None
    return rule


def _kept(sn: float, *, at_zero: float) -> float:
    """Return a number of pairs, or a fraction of them, as mining by ``relative`` reads it."""
    if sn < 0:
        return min(-float(sn), 1.0)
    return int(sn) or at_zero
