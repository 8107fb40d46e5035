"""The workers of one trial: who they are, and the few sums that they exchange.

A group of one needs no process group.
"""

import datetime
import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

CPU = torch.device("cpu")


@dataclass(frozen=True)
class Group:
    """One worker's place in its trial.

    The methods are collective: every worker of the group calls them in the same order.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = CPU

    def sum(self, tensor: Tensor) -> Tensor:
        """Sums `tensor` over the workers, in place, and returns it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def max(self, tensor: Tensor) -> Tensor:
        """Largest of the workers' values, in place, and returned."""
        if self.size > 1:
            dist.all_reduce(tensor, dist.ReduceOp.MAX)
        return tensor

    def join(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Rows of all workers, rank after rank: [counts[rank], ...] on each becomes [sum(counts), ...] on all."""
        if self.size == 1:
            return rows
        padded = rows.new_zeros(max(counts), *rows.shape[1:])
        padded[: len(rows)] = rows
        gathered = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(gathered, padded)
        return torch.cat([part[:count] for part, count in zip(gathered, counts, strict=True)])

    def gather(self, rows: Tensor, counts: list[int]) -> Tensor:
        """The same with a gradient: each worker gets the sum of all workers' gradients of its rows."""
        return rows if self.size == 1 else _Gather.apply(rows, counts, self)

    def decide(self, verdict: bool) -> bool:
        """Rank 0's verdict, on every worker."""
        return bool(self.sum(torch.tensor(float(verdict and self.rank == 0), device=self.device)).item())

    def split(self, total: int) -> list[int]:
        """How `total` units are dealt to the workers, in order of rank: as evenly as whole units go."""
        return [total // self.size + (rank < total % self.size) for rank in range(self.size)]

    def share(self, total: int) -> range:
        """This worker's units of `total`: a contiguous range."""
        counts = self.split(total)
        first = sum(counts[: self.rank])
        return range(first, first + counts[self.rank])


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, counts: list[int], group: Group) -> Tensor:
        ctx.counts, ctx.group = counts, group
        return group.join(rows.contiguous(), counts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        first = sum(ctx.counts[: ctx.group.rank])
        summed = ctx.group.sum(gradients[0].clone(memory_format=torch.contiguous_format))
        return summed[first : first + ctx.counts[ctx.group.rank]], None, None


def backend_for(device: torch.device) -> str:
    """NCCL for GPUs, gloo for everything else."""
    return "nccl" if device.type == "cuda" else "gloo"


def default_device(local_rank: int = 0) -> torch.device:
    """The GPU of this worker where there is one, else the CPU."""
    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def from_torchrun() -> Group:
    """The group that `torchrun` describes in the environment, or a group of one."""
    size, local_rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    device = default_device(local_rank)
    if size > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)
        dist.init_process_group(backend_for(device), timeout=datetime.timedelta(minutes=10))
    return Group(int(os.environ.get("RANK", "0")), size, device)
