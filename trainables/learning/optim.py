"""Optimisers: torch's SGD, and LARS with its exclusions as parameter groups."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from trainables.config import trial as c


def build(config: "c.Optim", module: nn.Module, probe_lr: float = 0.0) -> torch.optim.Optimizer:
    """The configured optimiser over a student; `schedule` sets its rates in each step.

    SGD decays every parameter; LARS neither scales nor decays those of one dimension. An online probe is not decayed,
    and its learning rate follows the student's from `probe_lr` on.
    """
    groups: dict[tuple[bool, bool, float, bool], list[nn.Parameter]] = {}
    for name, parameter in module.named_parameters():
        part = name.split(".")[0]
        adapt = config.name == "lars" and parameter.ndim > 1
        decays = part != "probe" and (adapt or config.name == "sgd")
        share = probe_lr / config.lr.base if part == "probe" else 1.0
        scheduled = not (part == "predictor" and config.constant_predictor)
        if parameter.requires_grad:
            groups.setdefault((adapt, decays, share, scheduled), []).append(parameter)
    keys = ("adapt", "decays", "share", "scheduled")
    given: list[dict[str, Any]] = [{"params": own, **dict(zip(keys, key, strict=True))} for key, own in groups.items()]
    if config.name == "sgd":
        return torch.optim.SGD(given, lr=config.lr.base, momentum=config.momentum, nesterov=config.nesterov)
    return LARS(
        given, config.lr.base, config.momentum, trust=config.trust, clip=config.clip, lr_in_buffer=config.lr_in_buffer
    )


def schedule(optimizer: torch.optim.Optimizer, lr: float, weight_decay: float) -> None:
    """Sets the rates of a step."""
    for group in optimizer.param_groups:
        group["weight_decay"] = weight_decay if group["decays"] else 0.0
        if group["scheduled"]:
            group["lr"] = lr * group["share"]


def state_of(optimizer: torch.optim.Optimizer, module: nn.Module) -> dict[str, Tensor]:
    """The optimiser's state of each parameter of a module, as tensors named "optimizer.<parameter>.<slot>"."""
    return {
        f"optimizer.{name}.{slot}": value
        for name, parameter in module.named_parameters()
        for slot, value in optimizer.state[parameter].items()
        if value is not None
    }


@torch.no_grad()
def restore(optimizer: torch.optim.Optimizer, module: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restores what `state_of` returned; other tensors are passed over."""
    for name, parameter in module.named_parameters():
        prefix = f"optimizer.{name}."
        slots = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        # in the parameter's own memory format, so that the optimiser rounds as it did before
        optimizer.state[parameter] = {slot: torch.empty_like(parameter).copy_(value) for slot, value in slots.items()}


class LARS(torch.optim.Optimizer):
    """Layer-wise adaptive rate scaling (You et al. 2017).

    d = g + weight_decay w; where `adapt`, d is scaled by trust |w| / (|g| + weight_decay |w|), or by 1 where that is 0
    or undefined.
    With `lr_in_buffer`, as by You et al.: buffer = momentum buffer + lr d, and w -= buffer.
    Without it, as in SGD:                 buffer = momentum buffer + d, and w -= lr buffer.
    Both are the same at a constant learning rate. When the rate falls, the first keeps the higher rate of the past for
    a while.

    Args:
        params: parameters or groups; a group may set `adapt` and `weight_decay`.
        lr: learning rate.
        momentum: of the buffer.
        weight_decay: L2 decay, before the scaling.
        trust: the coefficient eta.
        adapt: whether the local rate applies.
        clip: whether a local rate is at most 1 / lr, so that no parameter moves faster than by plain gradients.
        lr_in_buffer: where the learning rate counts.
    """

    def __init__(
        self,
        params: Iterable,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        trust: float = 1e-3,
        adapt: bool = True,
        clip: bool = False,
        lr_in_buffer: bool = True,
    ):
        rates = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "trust": trust}
        super().__init__(params, {**rates, "adapt": adapt, "clip": clip, "lr_in_buffer": lr_in_buffer})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            change = torch._foreach_add([p.grad for p in parameters], parameters, alpha=group["weight_decay"])
            if group["adapt"]:
                torch._foreach_mul_(change, _local_rates(parameters, group))
            buffers = []
            for p in parameters:
                if "momentum_buffer" not in self.state[p]:
                    self.state[p]["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(self.state[p]["momentum_buffer"])
            torch._foreach_mul_(buffers, group["momentum"])
            inside, outside = (group["lr"], 1.0) if group["lr_in_buffer"] else (1.0, group["lr"])
            torch._foreach_add_(buffers, change, alpha=inside)
            torch._foreach_add_(parameters, buffers, alpha=-outside)


def _local_rates(parameters: list[Tensor], group: dict) -> list[Tensor]:
    weights = torch.stack(torch._foreach_norm(parameters))
    gradients = torch.stack(torch._foreach_norm([p.grad for p in parameters if p.grad is not None]))
    below = gradients + group["weight_decay"] * weights
    rates = torch.where((weights > 0) & (below > 0), group["trust"] * weights / below, torch.ones_like(weights))
    if group["clip"]:
        rates = (rates / group["lr"]).clamp(max=1.0) if group["lr"] > 0 else torch.ones_like(rates)
    return list(rates.unbind())
