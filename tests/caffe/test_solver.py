"""Solvers are read, and their learning rates are Caffe's: against the loop of its solver, and by hand."""

import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nearfar.caffe.prototxt import PrototxtError, parse
from nearfar.caffe.solver import POLICIES, Solver
from nearfar.config import Optimizer
from nearfar.errors import NearfarError
from nearfar.train.schedule import Schedule

TEXT = """\
net: "train_val.prototxt"
test_iter: 20  test_interval: 500  test_initialization: false
base_lr: 0.001
lr_policy: "step"  stepsize: 10000  gamma: 0.5
momentum: 0.9
weight_decay: 0.00002
max_iter: 2000000
snapshot: 5000  snapshot_prefix: "models/net"
clip_gradients: 35  iter_size: 2  random_seed: 7
display: 20  solver_mode: GPU
device_id: [0, 1]
richness: 10
"""


def test_a_solver() -> None:
    solver = Solver.of(parse(TEXT))
    assert solver == Solver(
        base_lr=0.001,
        lr_policy="step",
        stepsize=10_000,
        gamma=0.5,
        momentum=0.9,
        weight_decay=2e-5,
        max_iter=2_000_000,
        snapshot=5000,
        clip_gradients=35.0,
        iter_size=2,
        random_seed=7,
        test_interval=500,
        net="train_val.prototxt",
        unknown=solver.unknown,
    )
    assert [(field.name, field.line) for field in solver.unknown] == [("richness", 12)]


def test_the_net_has_an_old_name() -> None:
    assert Solver.of(parse("base_lr: 1 train_net: 'train.prototxt'")).net == "train.prototxt"


def test_defaults_are_those_of_caffe() -> None:
    solver = Solver.of(parse("base_lr: 1"))
    assert (solver.type, solver.regularization_type, solver.lr_policy) == ("SGD", "L2", "fixed")
    assert (solver.momentum, solver.weight_decay, solver.max_iter, solver.snapshot) == (0.0, 0.0, 0, 0)
    assert (solver.iter_size, solver.clip_gradients, solver.random_seed) == (1, -1.0, -1)
    assert (solver.momentum2, solver.rms_decay, solver.delta) == (0.999, 0.99, 1e-8)
    assert type(solver.base_lr) is float


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('type: "Adam"', "Adam"),
        ("solver_type: NESTEROV", "Nesterov"),
        ('solver_type: ADAM type: "AdaGrad"', "AdaGrad"),
    ],
)
def test_the_type_has_an_old_name(text: str, found: str) -> None:
    assert Solver.of(parse(f"base_lr: 1 {text}")).type == found


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("momentum: 0.9", "1:1: this solver has no base_lr, the learning rate at the start; add base_lr: 0.01."),
        ("name: 'x' layer {}", "1:1: this has layers, so it is a net; a solver has base_lr and lr_policy."),
        ("base_lr: 'x'", '1:1: base_lr must be a number; found "x".'),
        ("base_lr: 1 max_iter: 1e5", "1:12: max_iter must be a whole number; found 100000.0."),
        ("base_lr: 1\nlr_policy: 'stp'", "2:1: lr_policy 'stp' does not exist in Caffe; it has fixed, step, exp, inv, multistep, poly, sigmoid. Did you mean 'step'?"),
        ("base_lr: 1 lr_policy: step", "1:12: lr_policy must be a text in quotes; found step."),
        ("base_lr: 1\nlr_policy: 'step'", "2:1: lr_policy 'step' needs stepsize, the iterations between two falls; found 0."),
        ("base_lr: 1\nlr_policy: 'step' stepsise: 9", "2:1: lr_policy 'step' needs stepsize, the iterations between two falls; found 0. Did you mean 'stepsize'?"),
        ("base_lr: 1\nlr_policy: 'multistep'", "2:1: lr_policy 'multistep' needs stepvalue, the iterations at which the rate falls, once for each."),
        ("base_lr: 1\nlr_policy: 'poly'", "2:1: lr_policy 'poly' needs a max_iter of 1 or more and a power of 0 or more; found max_iter 0 and power 0."),
        ("base_lr: 1\nlr_policy: 'inv' gamma: -1", "2:1: lr_policy 'inv' needs a gamma of 0 or more; found -1."),
        ("base_lr: 1\nlr_policy: 'exp' gamma: -1", "2:1: lr_policy 'exp' needs a gamma of 0 or more; found -1."),
        ("base_lr: 1 type: 'Adm'", "1:12: type 'Adm' is no solver of Caffe; it has SGD, Nesterov, AdaGrad, RMSProp, AdaDelta, Adam. Did you mean 'Adam'?"),
        ("base_lr: 1 solver_type: LBFGS", "1:12: solver_type must be one of SGD, NESTEROV, ADAGRAD, RMSPROP, ADADELTA, ADAM; found LBFGS."),
    ],
)  # fmt: skip
def test_faults(text: str, message: str) -> None:
    with pytest.raises(PrototxtError) as caught:
        Solver.of(parse(text, "solver.prototxt"))
    assert str(caught.value) == f"solver.prototxt:{message}"


def test_a_solver_made_by_hand_is_checked() -> None:
    with pytest.raises(NearfarError, match=r"^lr_policy 'step' needs stepsize"):
        Solver(base_lr=1.0, lr_policy="step")
    with pytest.raises(NearfarError, match=r"^lr_policy 'plateau' does not exist in Caffe"):
        Solver(base_lr=1.0, lr_policy="plateau")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "iteration", "rate"),
    [
        ({"lr_policy": "fixed"}, 10**6, 0.5),
        ({"lr_policy": "step", "stepsize": 10, "gamma": 0.1}, 9, 0.5),
        ({"lr_policy": "step", "stepsize": 10, "gamma": 0.1}, 30, 0.0005),
        ({"lr_policy": "exp", "gamma": 0.5}, 3, 0.0625),
        ({"lr_policy": "inv", "gamma": 1e-4, "power": 0.75}, 10_000, 0.5 * 2**-0.75),
        ({"lr_policy": "multistep", "stepvalues": (2, 5), "gamma": 0.5}, 1, 0.5),
        ({"lr_policy": "multistep", "stepvalues": (2, 5), "gamma": 0.5}, 2, 0.25),
        ({"lr_policy": "multistep", "stepvalues": (2, 5), "gamma": 0.5}, 5, 0.125),
        ({"lr_policy": "poly", "max_iter": 100, "power": 2.0}, 50, 0.125),
        ({"lr_policy": "poly", "max_iter": 100, "power": 0.5}, 101, 0.0),
        ({"lr_policy": "sigmoid", "gamma": -0.1, "stepsize": 50}, 50, 0.25),
        ({"lr_policy": "sigmoid", "gamma": -0.1, "stepsize": 50}, 60, 0.5 / (1 + math.e)),
        ({"lr_policy": "sigmoid", "gamma": -1.0, "stepsize": 50}, 10**6, 0.0),
        ({"lr_policy": "sigmoid", "gamma": 1.0, "stepsize": 50}, 10**6, 0.5),
        ({"lr_policy": "exp", "gamma": 2.0}, 10**6, math.inf),
        ({"lr_policy": "exp", "gamma": 0.0}, 1, 0.0),
    ],
)
def test_rates_by_hand(settings: dict[str, Any], iteration: int, rate: float) -> None:
    assert Solver(base_lr=0.5, **settings).learning_rate(iteration) == pytest.approx(rate)


class CaffeLoop:
    """The solver as it runs: one rate after the other, with the count of falls as its state, in float32."""

    def __init__(self, solver: Solver) -> None:
        self.solver, self.current_step = solver, 0

    def rate(self, t: int) -> np.float32:
        s, one = self.solver, np.float32(1)
        base, gamma, power = (np.float32(x) for x in (s.base_lr, s.gamma, s.power))
        if s.lr_policy == "step":
            return base * np.power(gamma, np.float32(t // s.stepsize))
        if s.lr_policy == "exp":
            return base * np.power(gamma, np.float32(t))
        if s.lr_policy == "inv":
            return base * np.power(one + gamma * np.float32(t), -power)
        if s.lr_policy == "multistep":
            if self.current_step < len(s.stepvalues) and t >= s.stepvalues[self.current_step]:
                self.current_step += 1
            return base * np.power(gamma, np.float32(self.current_step))
        if s.lr_policy == "poly":
            return base * np.power(one - np.float32(t) / np.float32(s.max_iter), power)
        if s.lr_policy == "sigmoid":
            return base / (one + np.exp(-gamma * np.float32(t - s.stepsize)))
        return base


@given(
    policy=st.sampled_from(POLICIES),
    base_lr=st.floats(1e-4, 10.0),
    gamma=st.floats(0.5, 1.0),
    power=st.floats(0.0, 3.0),
    stepsize=st.integers(1, 50),
    stepvalues=st.lists(st.integers(0, 120), min_size=1, max_size=6),
    max_iter=st.integers(100, 200),
)
def test_rates_are_those_of_caffes_loop(policy: Any, stepvalues: list[int], **settings: Any) -> None:
    """Step values may repeat or stand in any order: Caffe waits for them one by one."""
    solver = Solver(lr_policy=policy, stepvalues=tuple(stepvalues), **settings)
    loop = CaffeLoop(solver)
    for t in range(100):
        assert solver.learning_rate(t) == pytest.approx(float(loop.rate(t)), rel=2e-4, abs=1e-30)


@pytest.mark.parametrize("t", [0, 1, 7, 99])
def test_rates_in_exact_arithmetic(t: int) -> None:
    rate, gamma = Fraction(3, 1000), Fraction(3, 4)
    given = {"base_lr": float(rate), "gamma": float(gamma)}
    expected = {
        "step": (Solver(lr_policy="step", stepsize=5, **given), rate * gamma ** (t // 5)),
        "exp": (Solver(lr_policy="exp", **given), rate * gamma**t),
        "inv": (Solver(lr_policy="inv", power=2.0, **given), rate / (1 + gamma * t) ** 2),
        "poly": (
            Solver(lr_policy="poly", power=3.0, max_iter=100, **given),
            rate * Fraction(100 - t, 100) ** 3,
        ),
    }
    for name, (solver, exact) in expected.items():
        assert solver.learning_rate(t) == pytest.approx(float(exact), rel=1e-14), name


@pytest.mark.parametrize(
    ("solver", "optimizer"),
    [
        ({"lr_policy": "fixed"}, {"schedule": "constant"}),
        ({"lr_policy": "step", "stepsize": 7, "gamma": 0.5}, {"schedule": "step", "step_size": 7, "gamma": 0.5}),
        ({"lr_policy": "exp", "gamma": 0.99}, {"schedule": "exp", "gamma": 0.99}),
        ({"lr_policy": "inv", "gamma": 0.1, "power": 0.75}, {"schedule": "inv", "gamma": 0.1, "power": 0.75}),
        ({"lr_policy": "multistep", "stepvalues": (5, 9, 20), "gamma": 0.3}, {"schedule": "multistep", "step_values": (5, 9, 20), "gamma": 0.3}),
        ({"lr_policy": "poly", "power": 0.5}, {"schedule": "poly", "power": 0.5}),
    ],
)  # fmt: skip
def test_a_run_has_the_rates_of_its_solver(solver: dict[str, Any], optimizer: dict[str, Any]) -> None:
    caffe = Solver(base_lr=0.25, max_iter=60, **solver)
    schedule = Schedule.of(Optimizer(warmup_epochs=0.0, **optimizer), steps=60, epoch=11)
    for t in range(60):
        assert 0.25 * schedule.factor(t) == pytest.approx(caffe.learning_rate(t), rel=1e-14)
