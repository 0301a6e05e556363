"""A Caffe solver as the sections of a recipe: optimiser, schedule and length."""

from typing import Any

from nearfar.caffe.solver import FIELDS, Solver, fall_iterations
from nearfar.caffe.table import Draft, plain
from nearfar.errors import suggest

_INSTEAD = {
    "SGD": ("sgd", ""),
    "Nesterov": ("sgd", "without Nesterov's look ahead"),
    "Adam": ("adamw", "the decay acts on the weights, not through the gradient; β and ε are PyTorch's"),
}


def import_solver(solver: Solver | None, draft: Draft) -> None:
    """Write the sections [optimizer] and [train] and their rows; without a solver nearfar's own stay."""
    if solver is None:
        draft.say("no solver", "what suits nearfar/small", "give the solver as the second file")
        return
    name, differs = _INSTEAD.get(solver.type, ("adamw", f"nearfar has no {solver.type}; adamw is near"))
    draft.set(f'type: "{solver.type}"', "optimizer", {"name": name}, differs)
    rate = plain(solver.base_lr)
    draft.set(
        f"base_lr: {rate}",
        "optimizer",
        {"lr": rate, "head_lr": rate, "loss_lr": rate, "warmup_epochs": 0},
        "lr_mult and decay_mult of single layers are left out",
    )
    _schedule(solver, draft)
    if name == "sgd":
        differs = "Caffe has the rate inside its momentum: other steps just after the rate falls"
        draft.set(
            f"momentum: {solver.momentum:g}", "optimizer", {"momentum": plain(solver.momentum)}, differs
        )
    differs = "biases and norms have none" if solver.weight_decay else ""
    if solver.regularization_type != "L2":
        differs = f"{solver.regularization_type} decay becomes L2; {differs}"
    draft.set(
        f"weight_decay: {solver.weight_decay:g}",
        "optimizer",
        {"weight_decay": plain(solver.weight_decay)},
        differs,
    )
    if solver.clip_gradients > 0:
        draft.set(
            f"clip_gradients: {solver.clip_gradients:g}",
            "optimizer",
            {"clip_norm": plain(solver.clip_gradients)},
        )
    if solver.iter_size > 1:
        draft.say(
            f"iter_size: {solver.iter_size}",
            "-",
            "gradients of several batches are not added up; make the batch larger: it has more pairs too",
        )
    if solver.max_iter > 0:
        draft.set(f"max_iter: {solver.max_iter}", "train", {"steps": solver.max_iter})
    if solver.snapshot > 0:
        draft.say(
            f"snapshot: {solver.snapshot}",
            "a checkpoint after each epoch, and every train.checkpoint_minutes = 10",
            "counted in epochs and minutes; the best epoch is kept too",
        )
    if solver.random_seed >= 0:
        draft.set(f"random_seed: {solver.random_seed}", "train", {"seed": solver.random_seed})
    for field in solver.unknown:
        hint = suggest(field.name, FIELDS)
        draft.say(f"{field.name} (line {field.line})", "-", f"not a field of Caffe's solver; left out.{hint}")


def _schedule(solver: Solver, draft: Draft) -> None:
    gamma = {"gamma": plain(solver.gamma)}
    values: dict[str, Any]
    said, differs = f'lr_policy: "{solver.lr_policy}"', ""
    match solver.lr_policy:
        case "step":
            values = {"schedule": "step", "step_size": solver.stepsize, **gamma}
            said += f", stepsize: {solver.stepsize}, gamma: {solver.gamma:g}"
        case "multistep":
            values = {"schedule": "multistep", "step_values": fall_iterations(solver.stepvalues), **gamma}
            said += f", stepvalue: {', '.join(map(str, solver.stepvalues))}, gamma: {solver.gamma:g}"
        case "exp":
            values = {"schedule": "exp", **gamma}
            said += f", gamma: {solver.gamma:g}"
        case "inv":
            values = {"schedule": "inv", **gamma, "power": plain(solver.power)}
            said += f", gamma: {solver.gamma:g}, power: {solver.power:g}"
        case "poly":
            values = {"schedule": "poly", "power": plain(solver.power)}
            said += f", power: {solver.power:g}"
        case "sigmoid":
            said += f", stepsize: {solver.stepsize}, gamma: {solver.gamma:g}"
            if solver.gamma < 0:
                values = {"schedule": "multistep", "step_values": [max(1, solver.stepsize)], "gamma": 1e-3}
                differs = "one fall, to 1/1000, in the middle of the sigmoid"
            else:
                values = {"schedule": "constant"}
                differs = "the rise of the sigmoid is left out"
        case _:
            values = {"schedule": "constant"}
    draft.set(said, "optimizer", values, differs)
