"""The tensors that a trial begins with (`init`): brought under our names, checked, and loaded into a student's parts.

The file itself is read by `trainables.running.initial_network`.

Names are those of the encoder's parts, such as block1.0.bn1.weight. The statistics of every kind of norm are called
running_mean and running_var, and are those that an evaluation uses.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from trainables.config.errors import UserError
from trainables.config.init import Init
from trainables.config.teacher import PROJECTOR
from trainables.networks.encoders import DEPTHS, WIDENINGS
from trainables.networks.norm_kinds import KINDS
from trainables.networks.norms.base import Norm

State = dict[str, Tensor]
STATISTICS = ("running_mean", "running_var")
SHOWN = 3  # names that a message lists
CONVOLUTION = 4  # dimensions of a convolution's weight


def of_checkpoint(tensors: Mapping[str, Tensor], network: str) -> State:
    """Returns the student's or the teacher's network in a checkpoint of ours.

    Args:
        tensors: as `Learner.state_dict` names them.
        network: "student" or "teacher". The teacher shares with the student what it has no copy of.

    Raises:
        ValueError: each worker has a teacher of its own.
    """
    student = _evaluated(_below("student.parts.", tensors))
    if network == "student":
        return student
    if any(name.startswith("teachers.") for name in tensors):
        raise ValueError("each of its workers has a teacher of its own; init.network=student fits")
    return student | _evaluated(_below("teacher.", tensors))


def of_torchvision(tensors: Mapping[str, Tensor]) -> State:
    """Returns the state of a torchvision ResNet under our names; its classifier is a projector of one layer.

    Raises:
        ValueError: it has other names.
    """
    if not {"conv1.weight", "layer1.0.conv1.weight"} <= tensors.keys():
        has = ", ".join(sorted(tensors)[:SHOWN]) or "nothing"
        raise ValueError(f"holds neither a checkpoint of ours nor a ResNet under torchvision's names; it holds {has}")
    own: State = {}
    for name, tensor in tensors.items():
        layer, _, rest = name.partition(".")
        part = {"conv1": "conv1.0", "bn1": "conv1.1", "fc": "fc2.0"}.get(layer, layer.replace("layer", "block"))
        if not rest.endswith("num_batches_tracked"):
            own[f"{part}.{rest}"] = tensor
    return own


@torch.no_grad()
def load_parts(parts: nn.ModuleDict, state: Mapping[str, Tensor], init: Init) -> None:
    """Copies a network into the parts that `init` asks for; all others keep their weights.

    Args:
        parts: of the student, by name.
        state: of the network.
        init: of the trial.

    Raises:
        UserError: a tensor is missing, is too many, has another shape, or holds a number that is not finite.
    """
    require_fit(parts, state, init)
    for path, module in _chosen(parts, init).named_modules():
        for name, tensor in module.named_parameters(recurse=False):
            tensor.copy_(state[f"{path}.{name}"])
        if isinstance(module, Norm) and module.BATCH_STATISTICS:
            first = next(module.buffers())
            mean, var = (state[f"{path}.{name}"].to(first) for name in STATISTICS)
            module.take_statistics(mean, var)


def require_fit(parts: nn.ModuleDict, state: Mapping[str, Tensor], init: Init) -> None:
    """Raises `UserError` where a network does not fit the parts that `init` asks for, or is not finite in them.

    The parts may be on meta: only their shapes are looked at.
    """
    chosen = _chosen(parts, init)
    here = {name: [*tensor.shape] for name, tensor in chosen.named_parameters()}
    for path, module in chosen.named_modules():
        if isinstance(module, Norm) and module.BATCH_STATISTICS:
            here |= {f"{path}.{name}": [module.channels] for name in STATISTICS}
    whole = init.part == "whole"
    there = {name: [*x.shape] for name, x in state.items() if whole or name.partition(".")[0] not in PROJECTOR}
    odd = sorted(name for name in here.keys() | there.keys() if here.get(name) != there.get(name))
    if not odd:
        _require_finite({name: state[name] for name in sorted(here)}, init)
        return
    name, more = odd[0], _more(len(odd) - 1, "does not fit either", "do not fit either")
    if name not in there:
        fault = f"has no {name}, which is {here[name]} in this trial"
    elif name not in here:
        fault = f"has {name} {there[name]}, which this trial lacks"
    else:
        fault = f"{name} is {there[name]}, and {here[name]} in this trial"
    fits = "init.part=backbone fits" if whole and all(n.startswith(PROJECTOR) for n in odd) else f"it is {_kind(state)}"
    raise UserError(f"init.path = '{init.path}': {fault}{more}; {fits}")


def _require_finite(state: Mapping[str, Tensor], init: Init) -> None:
    """Raises `UserError` for weights and statistics that a trial cannot begin with, as diverged trials have them."""
    odd = [name for name, tensor in state.items() if not tensor.isfinite().all()]
    if odd:
        worst = "NaN" if state[odd[0]].isnan().any() else "an infinite number"
        more = _more(len(odd) - 1, "does too", "do too")
        rule = "weights and statistics must be finite numbers"
        raise UserError(f"init.path = '{init.path}': {odd[0]} holds {worst}{more}; {rule}")


def _more(count: int, one: str, several: str) -> str:
    """Returns what is said of further tensors with the same fault; "" where there are none."""
    return f" ({count} other {one})" if count == 1 else f" ({count} others {several})" if count else ""


def _chosen(parts: nn.ModuleDict, init: Init) -> nn.ModuleDict:
    return nn.ModuleDict({k: part for k, part in parts.items() if init.part == "whole" or k not in PROJECTOR})


def _below(prefix: str, tensors: Mapping[str, Tensor]) -> State:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _evaluated(state: State) -> State:
    """Returns a state in which the histories of Momentum BN's shards are the statistics that an evaluation uses."""
    plain: State = {}
    for name, tensor in state.items():
        path, _, leaf = name.rpartition(".")
        if leaf == "history":
            plain |= {f"{path}.{key}": row for key, row in zip(STATISTICS, tensor.mean(0).unbind(), strict=True)}
        else:
            plain[name] = tensor
    return plain


def _kind(state: Mapping[str, Tensor]) -> str:
    """Returns which encoder a state is of, as keys of a trial."""
    first = state.get("conv1.0.weight")
    if first is None or first.ndim != CONVOLUTION:
        return "no encoder"
    width, channels, side = first.shape[:3]
    parts = ("block1", "block2", "block3", "block4")
    depths = tuple(sum(n.startswith(f"{part}.") and n.endswith(".conv1.weight") for n in state) for part in parts)
    bottleneck = "block1.0.conv3.weight" in state
    names = [name for name, (block, own) in DEPTHS.items() if own == depths and (block is Bottleneck) == bottleneck]
    if not depths[3] and (inner := state.get("block1.0.conv1.weight")) is not None and inner.ndim:
        names = [name for name, factor in WIDENINGS.items() if factor * width == len(inner)]
    name = names[0] if names else f"a ResNet with {depths} blocks"
    stem = "standard" if side > 3 else "small"
    shape = f"encoder.width={width} and encoder.stem={stem}, for images of {channels} channels"
    return f"{name} with {shape}, with encoder.norm={' or '.join(_norms(state))}"


def _norms(state: Mapping[str, Tensor]) -> list[str]:
    """Returns the kinds of a student's norm whose tensors have the names that those of a state have."""
    norms = {kind: norm for kind, norm in KINDS.items() if norm.OF_STUDENT}
    if any(name.endswith(STATISTICS) for name in state):
        return [kind for kind, norm in norms.items() if norm.BATCH_STATISTICS]
    weights = any(name.endswith(".bn1.weight") for name in state)
    return [kind for kind, norm in norms.items() if not norm.BATCH_STATISTICS and weights != norm.IDENTITY]
