"""Encoders in named parts: conv1, block1..block4 of a torchvision ResNet, and the projector; heads; the student."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.config import PARTS, Encoder, Head
from trainables.norm import Norm, Shards

DEPTHS = {"resnet18": (BasicBlock, (2, 2, 2, 2)), "resnet34": (BasicBlock, (3, 4, 6, 3)), "resnet50": (Bottleneck, (3, 4, 6, 3))}
Block = type[BasicBlock | Bottleneck]
NormFactory = Callable[[int], nn.Module]


def build_parts(config: Encoder, channels: int, shards: Shards) -> nn.ModuleDict:
    """The parts of an encoder, in order; each takes what the one before it returns.

    Images [N, channels, H, W] become block4's pooled features [N, F] and the projector's output [N, out].
    """
    norm = partial(Norm, shards=shards)
    block, depths = DEPTHS[config.name]
    parts: dict[str, nn.Module] = {"conv1": _stem(config, channels, norm)}
    inputs = config.width
    for index, depth in enumerate(depths):
        planes = config.width * 2**index
        blocks = list(_blocks(block, inputs, planes, depth, stride=1 if index == 0 else 2, norm=norm))
        inputs = planes * block.expansion
        pool = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)] if index == len(depths) - 1 else []
        parts[f"block{index + 1}"] = nn.Sequential(*blocks, *pool)
    parts["projector"] = mlp(inputs, config.projector, norm)
    for module in parts.values():
        _initialise(module)
    return nn.ModuleDict(parts)


def mlp(inputs: int, head: Head, norm: NormFactory) -> nn.Sequential:
    """Linear, norm, ReLU, Linear: the projector and the predictor of BYOL."""
    return nn.Sequential(nn.Linear(inputs, head.hidden), norm(head.hidden), nn.ReLU(inplace=True), nn.Linear(head.hidden, head.out))


def feature_width(parts: nn.ModuleDict) -> int:
    """Width F of the features that the backbone returns and the projector takes."""
    first = parts["projector"].get_submodule("0")
    assert isinstance(first, nn.Linear)
    return first.in_features


def run_parts(parts: nn.ModuleDict, x: Tensor, first: str, last: str) -> Tensor:
    """`x` through the parts from `first` to `last`, both included."""
    for name in PARTS[PARTS.index(first) : PARTS.index(last) + 1]:
        x = parts[name](x)
    return x


class StudentOutput(NamedTuple):
    """What a student returns for a batch of N images: `prediction` and `projection` [N, out], and the detached input of the teacher."""

    prediction: Tensor
    projection: Tensor
    tapped: Tensor


class Student(nn.Module):
    """The trained network: the encoder's parts, and the predictor where the method has one.

    `tap` names the last part that the teacher shares with the student, from the input on: what it returns is handed to the teacher, so
    that a shared prefix is computed once. None hands over the images.
    """

    def __init__(self, parts: nn.ModuleDict, predictor: nn.Module | None, tap: str | None):
        super().__init__()
        self.parts, self.predictor, self.tap = parts, predictor, tap

    def forward(self, x: Tensor) -> StudentOutput:
        tapped = x
        for name, part in self.parts.items():
            x = part(x)
            if name == self.tap:
                tapped = x.detach()
        return StudentOutput(x if self.predictor is None else self.predictor(x), x, tapped)


@torch.no_grad()
def plain_resnet_state(parts: nn.ModuleDict) -> dict[str, Tensor]:
    """The backbone under torchvision's names, its norms as plain batch norms with the statistics that an evaluation uses.

    Loads with `strict=True` into the torchvision ResNet of that depth with `fc = Identity()`, if width is 64 and the stem standard.
    """
    state: dict[str, Tensor] = {}
    for part in PARTS[:-1]:
        norms = {name: module for name, module in parts[part].named_modules() if isinstance(module, Norm)}
        for name, tensor in parts[part].named_parameters():
            state[_torchvision_name(part, name)] = tensor.detach().clone()
        for name, norm in norms.items():
            mean, var = norm.evaluation_statistics()
            counter = torch.zeros((), dtype=torch.int64)
            for key, statistic in (("running_mean", mean), ("running_var", var), ("num_batches_tracked", counter)):
                state[_torchvision_name(part, f"{name}.{key}")] = statistic.clone()
    return state


def _torchvision_name(part: str, name: str) -> str:
    if part == "conv1":
        layer, rest = name.split(".", 1)
        return f"{'conv1' if layer == '0' else 'bn1'}.{rest}"
    return f"layer{part[-1]}.{name}"


def _stem(config: Encoder, channels: int, norm: NormFactory) -> nn.Sequential:
    small = config.stem == "small"
    conv = nn.Conv2d(channels, config.width, 3 if small else 7, stride=1 if small else 2, padding=1 if small else 3, bias=False)
    stem = nn.Sequential(conv, norm(config.width), nn.ReLU(inplace=True))
    return stem if small else stem.append(nn.MaxPool2d(3, stride=2, padding=1))


def _blocks(block: Block, inputs: int, planes: int, depth: int, stride: int, norm: NormFactory) -> Iterator[nn.Module]:
    outputs = planes * block.expansion
    for before, _ in pairwise([inputs] + [outputs] * depth):
        shortcut = None
        if stride != 1 or before != outputs:
            shortcut = nn.Sequential(nn.Conv2d(before, outputs, 1, stride=stride, bias=False), norm(outputs))
        yield block(before, planes, stride, shortcut, norm_layer=norm)
        stride = 1


def _initialise(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
