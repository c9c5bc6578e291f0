"""How a network computes: in micro batches, in float32 or bfloat16, alone or sharded over the processes of `torchrun`.

Every process knows all rows of a step and all random numbers, computes its share of the rows, and gets the results of
all; statistics are taken of those, so nothing that a run reports depends on how many processes there are. Weights,
gradients and the optimizer's moments are sharded by FSDP2 (torch.distributed.fsdp.fully_shard). A process alone goes
the same way through this module, and computes what it would compute without it.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from .adapters import TRAINED, switched
from .failures import Alarmed, Interrupted, Unstable
from .protocol import StopRequest

# How long one process may keep the others waiting: loading a model, writing a checkpoint.
PATIENCE = timedelta(minutes=30)
# What a layer makes of so many tokens stays in the caches of a core: a fifth faster than 2,700 (docs/experiments.md).
CPU_TOKENS_AT_A_TIME = 1536

# ---- processes


@contextmanager
def joined_processes(device: torch.device) -> Iterator[None]:
    """Works together with the others where torchrun, or whoever sets its variables, has started several."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    dist.init_process_group("cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield
    except (Interrupted, Alarmed, Unstable):  # which all of them raise after the same step
        dist.barrier()  # nobody is gone before the first process has written the checkpoint
        raise
    dist.destroy_process_group()


def process_count() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def is_first() -> bool:
    """Whether this is the process that reports and writes files."""
    return rank() == 0


@contextmanager
def first_goes_first() -> Iterator[None]:
    """The block in the first process, then in the others, which find done what it does to files."""
    if not is_first():
        dist.barrier()
    yield
    if is_first() and process_count() > 1:
        dist.barrier()


def gathered(value: Any) -> list[Any]:
    """What each process has, in their order."""
    if process_count() == 1:
        return [value]
    values: list[Any] = [None] * process_count()
    dist.all_gather_object(values, value)
    return values


def agreed(stop: StopRequest) -> bool:
    """Whether any process is asked to stop: then all of them do, after the same step."""
    return any(gathered(stop.requested))


def summed(values: Tensor) -> Tensor:
    """The sum over all processes."""
    if process_count() > 1:
        dist.all_reduce(values)
    return values


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor of which each process may hold a shard."""
    return tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor


def collected(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, whole. Of those that are sharded only the first process gets any, on the CPU."""
    result = {}
    for name, tensor in tensors.items():
        if not hasattr(tensor, "full_tensor"):
            result[name] = tensor
            continue
        gathered_tensor = tensor.full_tensor()  # one at a time, as they may not fit into a GPU together
        if is_first():
            result[name] = gathered_tensor.cpu()
    return result


def shard_like(own: Tensor, tensor: Tensor) -> Tensor:
    """What `own` is of its whole, all or this process's shard, of the whole `tensor`."""
    if not hasattr(own, "full_tensor"):
        return tensor
    from torch.distributed.tensor import distribute_tensor

    return distribute_tensor(tensor.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


# ---- rows


@dataclass(frozen=True)
class Part:
    """Rows that are computed together. `weight` is 1, or 0 for a row that is computed only because other processes have
    one left: where weights are sharded, all of them compute equally often."""

    rows: list[int]
    weight: float


def own_rows(rows: int) -> slice:
    """Which of so many rows this process computes; the last processes may have none."""
    each = -(-rows // process_count())
    return slice(rank() * each, (rank() + 1) * each)


def parts(rows: Sequence[int], micro_batch_size: int) -> list[Part]:
    """This process's share of `rows`, at most `micro_batch_size` at a time (0: all at once)."""
    return cut(list(rows), list(rows[own_rows(len(rows))]), micro_batch_size)


def length_sorted_parts(
    rows: Sequence[int], lengths: list[int], micro_batch_size: int, device: torch.device
) -> list[Part]:
    """The same with rows of like length together, so that there is little padding. On a CPU 0 is as many rows as have
    CPU_TOKENS_AT_A_TIME. `lengths`: tokens of each row."""
    if not micro_batch_size and device.type == "cpu":
        micro_batch_size = max(1, CPU_TOKENS_AT_A_TIME // max(lengths[row] for row in rows))
    own = sorted(rows[own_rows(len(rows))], key=lambda row: -lengths[row])
    return cut(list(rows), own, micro_batch_size)


def cut(rows: list[int], own: list[int], size: int) -> list[Part]:
    """`own`, this process's share of `rows`, in parts of `size` (0: in one); every process has as many."""
    each = -(-len(rows) // process_count())
    size = size or each
    return [Part(own[start : start + size] or rows[:1], float(start < len(own))) for start in range(0, each, size)]


@torch.no_grad()
def over_rows(
    placed: "Placed",
    function: Callable[[list[list[int]], list[list[int]]], Tensor],
    prompts: list[list[int]],
    responses: list[list[int]],
    micro_batch_size: int,
) -> Tensor:
    """Values [n] of all response tokens, row by row, as `function` gives them for some prompts and responses."""
    lengths = [len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)]
    own: list[tuple[list[int], Tensor]] = []
    for part in length_sorted_parts(range(len(prompts)), lengths, micro_batch_size, placed.device):
        values = placed(function, [prompts[row] for row in part.rows], [responses[row] for row in part.rows])
        own += [(part.rows, values)] if part.weight else []
    of_row: dict[int, Tensor] = {}
    for rows, values in (part for of_process in gathered(own) for part in of_process):
        of_row |= zip(rows, values.to(placed.device).split([len(responses[row]) for row in rows]), strict=True)
    return torch.cat([of_row[row] for row in range(len(prompts))])


# ---- networks


@dataclass(frozen=True)
class Placed:
    """A module where it computes. What reads its weights must run through it: `placed(function, ...)` computes in the
    precision of the run, with the sharded weights gathered as they are needed, and with `adapter` switched on (None:
    none of them) where the module has any."""

    root: "Root"
    device: torch.device
    adapter: str | None

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> Any:
        with switched(self.root, self.adapter):
            return self.root(function, arguments)

    def at_its_own_pace(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """The same for decoding, which calls the network as often as its rows need, in each process. All weights are
        gathered for that long."""
        return self(self.root.unsharded, function, arguments)

    def with_adapter(self, adapter: str | None) -> "Placed":
        """The same weights."""
        return replace(self, adapter=adapter)


class Root(nn.Module):
    """What FSDP's hooks hang on: its forward is any function that computes with the module."""

    def __init__(self, module: nn.Module, precision: str, device: torch.device):
        super().__init__()
        self.module = module
        self.autocast = {"device_type": device.type, "dtype": torch.bfloat16, "enabled": precision == "bf16"}
        self.sharded_layers: list[Any] = []
        if process_count() > 1:
            self.sharded_layers = shard(self, precision, device)

    def forward(self, function: Callable[..., Any], arguments: tuple) -> Any:
        with torch.autocast(**self.autocast):
            return function(*arguments)

    def unsharded(self, function: Callable[..., Any], arguments: tuple) -> Any:
        for layer in self.sharded_layers:
            layer.set_reshard_after_forward(False, recurse=False)
            layer.unshard()
        try:
            return function(*arguments)
        finally:
            for layer in self.sharded_layers:
                layer.set_reshard_after_forward(True, recurse=False)
                layer.reshard()


def place_module(module: nn.Module, precision: str, device: torch.device) -> Placed:
    """Shards the weights of `module` over all processes, if there are several; the adapter that is trained is on."""
    return Placed(Root(module, precision, device), device, TRAINED)


def loading_device(device: torch.device) -> torch.device:
    """Where a network lies until it is placed: a single GPU of several may be too small for all of it."""
    return device if process_count() == 1 else torch.device("cpu")


def shard(root: nn.Module, precision: str, device: torch.device) -> list[Any]:
    """Each layer, and what is left together. Gradients are summed: every loss is a share of that of all rows."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(device.type, (process_count(),))
    computes_in = torch.bfloat16 if precision == "bf16" else torch.float32
    policy = MixedPrecisionPolicy(computes_in, torch.float32, cast_forward_inputs=False)
    layers = [module for module in root.modules() if isinstance(module, GradientCheckpointingLayer)]
    for module in (*layers, root):
        fully_shard(module, mesh=mesh, reshard_after_forward=True, mp_policy=policy)
        module.set_force_sum_reduction_for_comms(True)
        module.set_gradient_divide_factor(1.0)
    return layers
