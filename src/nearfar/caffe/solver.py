"""Caffe's solver: how the weights move, how fast, and for how long. Lengths are in iterations."""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from nearfar.caffe.prototxt import Field, Message
from nearfar.errors import NearfarError, suggest

Policy = Literal["fixed", "step", "exp", "inv", "multistep", "poly", "sigmoid"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

# The words of solver_type, which `type: "…"` replaced.
TYPES = {
    "SGD": "SGD",
    "NESTEROV": "Nesterov",
    "ADAGRAD": "AdaGrad",
    "RMSPROP": "RMSProp",
    "ADADELTA": "AdaDelta",
    "ADAM": "Adam",
}

_numbers = (
    *("base_lr", "gamma", "power", "momentum", "momentum2", "rms_decay", "delta", "weight_decay"),
    "clip_gradients",
)
_wholes = ("stepsize", "max_iter", "iter_size", "snapshot", "test_interval", "random_seed")
_texts = ("lr_policy", "stepvalue", "regularization_type", "type", "solver_type", "net", "train_net")
# Settings that do not change the weights, and the net inside the solver.
_idle = (
    *("net_param", "train_net_param", "test_net", "test_net_param", "train_state", "test_state"),
    *("test_iter", "test_compute_loss", "test_initialization", "display", "average_loss", "debug_info"),
    *("snapshot_prefix", "snapshot_diff", "snapshot_format", "snapshot_after_train", "weights"),
    *("solver_mode", "device_id", "layer_wise_reduce"),
)
FIELDS = [*_numbers, *_wholes, *_texts, *_idle]


@dataclass(frozen=True, kw_only=True)
class Solver:
    """A solver's settings, each named as in caffe.proto and with its default.

    Attributes:
        base_lr: learning rate at the start.
        lr_policy: how it changes; see `learning_rate`.
        gamma: factor of a fall ("step", "multistep", "exp"), or slope ("inv", "sigmoid"; per iteration).
        stepsize: iterations between the falls of "step"; centre of "sigmoid".
        stepvalues: iterations at which "multistep" falls.
        power: exponent of "poly" and "inv".
        momentum: share of the last move that is made again: v ← momentum · v + rate · gradient, w ← w - v.
        momentum2: Adam's second one. rms_decay: of RMSProp. delta: Adam's and AdaGrad's ε.
        weight_decay: times its ``decay_mult`` and the weight (L2) or its sign (L1), added to the gradient.
        regularization_type: "L2" or "L1".
        max_iter: iterations of the whole training.
        iter_size: batches whose gradients are averaged for one iteration.
        clip_gradients: largest norm of the gradient of all weights together; negative: any.
        snapshot: iterations between snapshots; 0: only the last one.
        test_interval: iterations between tests; 0: none.
        random_seed: negative: of the clock.
        type: "SGD", "Nesterov", "AdaGrad", "RMSProp", "AdaDelta" or "Adam".
        net: path of the net's definition, "" where the file names none.
        unknown: fields that Caffe does not have; forks have more.
    """

    base_lr: float
    lr_policy: Policy = "fixed"
    gamma: float = 0.0
    stepsize: int = 0
    stepvalues: tuple[int, ...] = ()
    power: float = 0.0
    momentum: float = 0.0
    momentum2: float = 0.999
    rms_decay: float = 0.99
    delta: float = 1e-8
    weight_decay: float = 0.0
    regularization_type: str = "L2"
    max_iter: int = 0
    iter_size: int = 1
    clip_gradients: float = -1.0
    snapshot: int = 0
    test_interval: int = 0
    random_seed: int = -1
    type: str = "SGD"
    net: str = ""
    unknown: tuple[Field, ...] = ()

    def __post_init__(self) -> None:
        if self.lr_policy not in POLICIES:
            raise NearfarError(_no_policy(self.lr_policy))
        fault = _fault(self)
        if fault:
            raise NearfarError(f"lr_policy {self.lr_policy!r} {fault}")

    @classmethod
    def of(cls, message: Message) -> "Solver":
        """Read a solver's definition.

        Raises:
            PrototxtError: if it is a net, has no ``base_lr``, or a value does not fit.
        """
        if message.place("layer") or message.place("layers"):
            raise message.error("this has layers, so it is a net; a solver has base_lr and lr_policy.")
        if message.place("base_lr") is None:
            raise message.error(
                "this solver has no base_lr, the learning rate at the start; add base_lr: 0.01."
            )
        policy = message.text("lr_policy", "fixed")
        if policy not in POLICIES:
            raise message.error(_no_policy(policy), message.place("lr_policy"))
        read: dict[str, Any] = {
            "lr_policy": policy,
            "stepvalues": tuple(message.wholes("stepvalue")),
            "regularization_type": message.text("regularization_type", "L2"),
            "type": _type(message),
            "net": message.text("net", "") or message.text("train_net", ""),
            "unknown": tuple(message.unknown(FIELDS)),
        }
        read |= {name: float(message.number(name, 0)) for name in _numbers if message.place(name)}
        read |= {name: message.whole(name, 0) for name in _wholes if message.place(name)}
        try:
            return cls(**read)
        except NearfarError as error:
            hints = (suggest(field.name, FIELDS) for field in read["unknown"])
            place = message.place("lr_policy")
            raise message.error(f"{error}{next(filter(None, hints), '')}", place) from None

    def learning_rate(self, iteration: int) -> float:
        """Return the learning rate at an iteration, counted from 0, as Caffe computes it (in float64).

        With t the iteration:

            fixed      base_lr
            step       base_lr · gamma^⌊t / stepsize⌋
            exp        base_lr · gamma^t
            inv        base_lr · (1 + gamma · t)^(-power)
            multistep  base_lr · gamma^(falls until t), see `falls`
            poly       base_lr · (1 - t / max_iter)^power, 0 from max_iter on, where Caffe has stopped
            sigmoid    base_lr / (1 + exp(-gamma · (t - stepsize)))

        Reference:
            BVLC/caffe src/caffe/solvers/sgd_solver.cpp, GetLearningRate.
        """
        match self.lr_policy:
            case "step":
                return self.base_lr * _power(self.gamma, iteration // self.stepsize)
            case "exp":
                return self.base_lr * _power(self.gamma, iteration)
            case "inv":
                return self.base_lr * _power(1.0 + self.gamma * iteration, -self.power)
            case "multistep":
                return self.base_lr * _power(self.gamma, falls(self.stepvalues, iteration))
            case "poly":
                return self.base_lr * _power(max(0.0, 1.0 - iteration / self.max_iter), self.power)
            case "sigmoid":
                return self.base_lr * _sigmoid(self.gamma * (iteration - self.stepsize))
        return self.base_lr


def falls(stepvalues: Sequence[int], iteration: int) -> int:
    """Return how often "multistep" has fallen at ``iteration``.

    >>> [falls((2, 2, 4), iteration) for iteration in range(6)]
    [0, 0, 1, 2, 3, 3]
    """
    return bisect_right(fall_iterations(stepvalues), iteration)


def fall_iterations(stepvalues: Sequence[int]) -> list[int]:
    """Return the iterations at which "multistep" falls.

    Caffe waits for one value after the other and falls at most once in an iteration, so a value that is not
    larger than the one before falls an iteration after it.

    >>> fall_iterations((200, 100, 300))
    [200, 201, 300]
    """
    fallen: list[int] = []
    for value in stepvalues:
        fallen.append(max(value, fallen[-1] + 1 if fallen else 0))
    return fallen


def _fault(solver: Solver) -> str:
    """Say what the policy lacks to have a value at every iteration."""
    if solver.lr_policy in ("step", "exp", "inv", "multistep") and solver.gamma < 0:
        return f"needs a gamma of 0 or more; found {solver.gamma:g}."
    if solver.lr_policy == "step" and solver.stepsize < 1:
        return f"needs stepsize, the iterations between two falls; found {solver.stepsize}."
    if solver.lr_policy == "multistep" and not solver.stepvalues:
        return "needs stepvalue, the iterations at which the rate falls, once for each."
    if solver.lr_policy == "poly" and (solver.max_iter < 1 or solver.power < 0):
        return (
            "needs a max_iter of 1 or more and a power of 0 or more; found max_iter "
            f"{solver.max_iter} and power {solver.power:g}."
        )
    return ""


def _no_policy(policy: str) -> str:
    hint = suggest(policy, list(POLICIES))
    return f"lr_policy {policy!r} does not exist in Caffe; it has {', '.join(POLICIES)}.{hint}"


def _type(message: Message) -> str:
    old = message.word("solver_type", tuple(TYPES), "SGD")
    name = message.text("type", TYPES[old])
    if name not in TYPES.values():
        hint = suggest(name, list(TYPES.values()))
        known = ", ".join(TYPES.values())
        raise message.error(
            f"type {name!r} is no solver of Caffe; it has {known}.{hint}", message.place("type")
        )
    return name


def _power(base: float, exponent: float) -> float:
    """Raise a number that is not negative as C does, where Python raises an error."""
    try:
        return base**exponent
    except OverflowError:
        return math.inf


def _sigmoid(x: float) -> float:
    """1 / (1 + e^-x) without overflow."""
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0 else math.exp(x) / (1.0 + math.exp(x))
