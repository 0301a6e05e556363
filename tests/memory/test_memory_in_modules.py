"""A memory inside a module: other people's trainers save, load, average, copy and re-compute that module."""

import copy
import io
import pickle

import pytest
import safetensors.torch
import timm.utils
import torch
from torch import Tensor, nn
from torch.distributed import checkpoint as dcp
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

import nearfar
from memory_rows import equal, rows
from nearfar.errors import NearfarError
from turns import in_turns

MEMORIES = {
    "plain": {},
    "dim": {"dim": 4},
    "half": {"dtype": torch.float16},
    "sum": {"combine": "sum", "enqueue": "before"},
    "paper": {"combine": "memory", "xbm_compat": True},
    "sharded": {"sharded": True},
    "later": {"start_after": 2},
}


class System(nn.Module):
    """Network, loss and memory in one module."""

    def __init__(self, **make) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.memory = nearfar.CrossBatchMemory(12, **make)  # first: what comes after it must not be misplaced
        self.net = nn.Linear(8, 4)
        self.loss = nearfar.losses.create("triplet")

    def forward(self, x: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:
        return self.loss(self.net(x), labels, ids=ids, memory=self.memory)


def train(system: System, start: int, stop: int, with_ids: bool = False) -> list[Tensor]:
    """Steps of gradient descent; the values."""
    found = []
    for step in range(start, stop):
        x, labels = rows(5, step)
        value = system(x, labels, torch.arange(5) + step if with_ids else None)
        system.zero_grad()
        value.backward()
        with torch.no_grad():
            for p in system.parameters():
                p.sub_(0.1 * p.grad)
        found.append(value.detach())
    return found


def kept(system: nn.Module) -> dict[str, Tensor]:
    return {k: v.clone() for k, v in system.state_dict().items()}


@in_turns(3, kind=[*MEMORIES], steps=[0, 1, 4])
def test_all_state_is_tensors_that_safetensors_carries(kind, steps, tmp_path):
    whole = System(**MEMORIES[kind])
    train(whole, 0, steps, with_ids=True)
    state = whole.state_dict()
    assert all(isinstance(value, Tensor) for value in state.values())
    safetensors.torch.save_file(state, tmp_path / "file.safetensors")
    safetensors.torch.save_model(whole, tmp_path / "model.safetensors")
    one, other = System(**MEMORIES[kind]), System(**MEMORIES[kind])
    one.load_state_dict(safetensors.torch.load_file(tmp_path / "file.safetensors"))
    safetensors.torch.load_model(other, tmp_path / "model.safetensors")
    expected = train(whole, steps, steps + 4, with_ids=True)
    equal(train(one, steps, steps + 4, with_ids=True), expected)
    equal(train(other, steps, steps + 4, with_ids=True), expected)


@pytest.mark.parametrize("with_ids", [False, True])
def test_shapes_are_fixed_where_the_dimension_is_given(with_ids):
    system = System(dim=4)
    shapes = {k: (v.shape, v.dtype) for k, v in system.state_dict().items()}
    for step in range(4):
        train(system, step, step + 1, with_ids)
        assert {k: (v.shape, v.dtype) for k, v in system.state_dict().items()} == shapes
    assert all(system.state_dict()[f"memory.{name}"].ndim == 0 for name in ("added", "step", "cursor"))


@pytest.mark.parametrize("kind", MEMORIES)
def test_a_state_that_is_kept_stays_as_it_was(kind):
    system = System(**MEMORIES[kind])
    train(system, 0, 4)
    state = system.memory.state_dict()
    before = copy.deepcopy(state)
    train(system, 4, 6)
    equal(state.values(), before.values())
    for value in system.memory.state_dict().values():
        value.zero_()
    assert len(system.memory) == 12
    assert system.memory.embeddings.abs().sum() > 0


@in_turns(2, kind=[*MEMORIES], begun=[0, 2], foreach=[False, True])
def test_an_average_of_weights_leaves_it_alone(kind, begun, foreach):
    """Averages made before the first step and after some; they average the network, and no memory."""
    system = System(**MEMORIES[kind])
    train(system, 0, begun, with_ids=True)
    ema = timm.utils.ModelEmaV3(system, decay=0.9, foreach=foreach)
    swa = AveragedModel(system, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    copied = copy.deepcopy(system.memory.state_dict())
    for step in range(begun, 5):
        train(system, step, step + 1, with_ids=True)
        before = kept(system.memory)
        ema.update(system)
        swa.update_parameters(system)
        equal(system.memory.state_dict().values(), before.values())
    for module in (ema.module, swa.module):
        assert not torch.equal(module.net.weight, system.net.weight)
        assert int(module.memory.added) == int(copied["added"])
        assert module.state_dict().keys() == system.state_dict().keys()
        train(module, 5, 6, with_ids=True)
    assert not list(system.memory.buffers())


def test_copies_of_an_empty_memory_go_their_own_ways():
    one = nearfar.CrossBatchMemory(6)
    other = copy.deepcopy(one)
    one.add(*rows(3, 0, dim=8))
    assert other.state_dict()["embeddings"].shape == (6, 8)
    assert len(other) == 0
    other.add(*rows(3, 0, dim=2))
    assert other.state_dict()["embeddings"].shape == (6, 2)
    assert one.state_dict()["embeddings"].shape == (6, 8)


@pytest.mark.filterwarnings("ignore:torch.distributed is disabled")
@pytest.mark.parametrize("steps", [0, 3])
def test_torch_distributed_checkpoint(steps, tmp_path):
    """Loaded in place into what another process would have: a new module."""
    whole = System(dim=4)
    train(whole, 0, steps)
    dcp.save({"system": whole}, checkpoint_id=tmp_path / "of module", no_dist=True)
    dcp.save({"system": whole.state_dict()}, checkpoint_id=tmp_path / "of state", no_dist=True)
    one, other = System(dim=4), System(dim=4)
    dcp.load({"system": one}, checkpoint_id=tmp_path / "of module", no_dist=True)
    state = other.state_dict()
    dcp.load({"system": state}, checkpoint_id=tmp_path / "of state", no_dist=True)
    other.load_state_dict(state)
    expected = train(whole, steps, steps + 4)
    equal(train(one, steps, steps + 4), expected)
    equal(train(other, steps, steps + 4), expected)


def test_accelerate_saves_and_loads(tmp_path):
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    whole = accelerator.prepare(System())
    train(whole, 0, 3)
    accelerator.save_state(str(tmp_path / "state"))
    accelerator.save_model(whole, str(tmp_path / "model"))
    expected = train(whole, 3, 6)
    accelerator.load_state(str(tmp_path / "state"))
    equal(train(whole, 3, 6), expected)
    found = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    again = System()
    again.load_state_dict(found)
    equal(train(again, 3, 6), expected)


@in_turns(3, kind=[*MEMORIES], how=["deepcopy", "pickle", "torch.save"])
def test_copied_whole(kind, how):
    system = System(**MEMORIES[kind])
    train(system, 0, 3, with_ids=True)
    if how == "deepcopy":
        again = copy.deepcopy(system)
    elif how == "pickle":
        again = pickle.loads(pickle.dumps(system))
    else:
        file = io.BytesIO()
        torch.save(system, file)
        file.seek(0)
        again = torch.load(file, weights_only=False)
    equal(train(again, 3, 6, with_ids=True), train(system, 3, 6, with_ids=True))


@pytest.mark.parametrize("ids", [False, True])
def test_checkpoints_of_the_first_version_load(ids):
    """One mapping under ``_extra_state``, with None for what was not there."""
    system = System()
    train(system, 0, 3, with_ids=ids)
    m = system.memory
    older = {name: getattr(m, name) for name in ("embeddings", "inverse", "labels", "ids", "made")}
    older |= {name: getattr(m, name) for name in ("added", "step", "cursor")}
    state = {k: v for k, v in system.state_dict().items() if not k.startswith("memory.")}
    file = io.BytesIO()
    torch.save({**state, "memory._extra_state": older}, file)
    file.seek(0)
    again = System()
    again.load_state_dict(torch.load(file, weights_only=True))
    equal(train(again, 3, 6, with_ids=ids), train(system, 3, 6, with_ids=ids))


def test_what_does_not_fit_is_refused():
    system = System()
    train(system, 0, 1)
    state = system.state_dict()
    with pytest.raises(RuntimeError, match=r'Missing key.*"memory.labels"'):
        System().load_state_dict({k: v for k, v in state.items() if k != "memory.labels"})
    System().load_state_dict({k: v for k, v in state.items() if not k.startswith("memory.")}, strict=False)
    with pytest.raises(RuntimeError, match=r'Unexpected key.*"memory.more"'):
        System().load_state_dict({**state, "memory.more": torch.zeros(1)})
    with pytest.raises(NearfarError, match="this memory was created with dim=5 but the embeddings have 4"):
        System(dim=5).load_state_dict(state)
    with pytest.raises(NearfarError, match="this memory was created with dim=5 but the embeddings have 4"):
        train(System(dim=5), 0, 1)


class Recomputed(nn.Module):
    """The same, computed again in the backward pass."""

    def __init__(self, use_reentrant: bool | None, **make) -> None:
        super().__init__()
        self.system, self.use_reentrant = System(**make), use_reentrant

    def forward(self, x: Tensor, labels: Tensor, ids: Tensor | None = None) -> Tensor:
        if self.use_reentrant is None:
            return self.system(x, labels, ids)
        x = x.requires_grad_(self.use_reentrant)
        return checkpoint(self.system, x, labels, ids, use_reentrant=self.use_reentrant)


RECOMPUTED = [
    (kind, use_reentrant)
    for kind in MEMORIES
    for use_reentrant in (False, True)
    # Without gradient nothing is stored before the loss: the first value is another.
    if not (use_reentrant and kind in ("sum", "paper"))
]


@in_turns(3, told=RECOMPUTED, loss=["triplet", "supcon", "sum"])
def test_checkpoint_takes_a_batch_in_once(told, loss):
    kind, use_reentrant = told
    plain, again = (Recomputed(how, **MEMORIES[kind]) for how in (None, use_reentrant))
    for module in (plain, again):
        module.system.loss = (
            nearfar.losses.Sum({"triplet": 1.0, "supcon": 0.5})
            if loss == "sum"
            else nearfar.losses.create(loss)
        )
    equal(train(again, 0, 6, with_ids=True), train(plain, 0, 6, with_ids=True))
    equal(again.state_dict().values(), plain.state_dict().values())


def test_checkpoint_of_a_batch_that_is_not_the_last_is_refused():
    system = Recomputed(False)
    first, second = system(*rows(5, 0)), system(*rows(5, 1))
    with pytest.raises(NearfarError, match="call backward\\(\\) after each loss"):
        (first + second).backward()
