"""Encoders in named parts: conv1, block1..block4 of a torchvision ResNet, and the projector."""

import contextlib
import copy
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from trainables.config.teacher import PROJECTOR
from trainables.config.trial import Encoder, Head
from trainables.networks.norm_kinds import NormFactory, factory
from trainables.networks.norms.base import Norm, Shards

DEPTHS = {
    "resnet10": (BasicBlock, (1, 1, 1, 1)),
    "resnet18": (BasicBlock, (2, 2, 2, 2)),
    "resnet34": (BasicBlock, (3, 4, 6, 3)),
    "resnet50": (Bottleneck, (3, 4, 6, 3)),
}
WIDENINGS = {"wrn28-2": 2, "wrn28-8": 8}
Block = type[BasicBlock | Bottleneck]
SLOPE = 0.1  # of a Wide ResNet's leaky ReLU, as in FixMatch


def build_parts(config: Encoder, channels: int, shards: Shards) -> nn.ModuleDict:
    """The parts of an encoder, in order; each takes the output of the one before it.

    Images [N, channels, H, W] become the last block's pooled features [N, F] and then the projector's output [N, out].
    """
    norm = factory(config.norm, shards)
    backbone, features = (_wide_resnet if config.name in WIDENINGS else _resnet)(config, channels, norm)
    pool: list[nn.Module] = [nn.AdaptiveAvgPool2d(1), nn.Flatten(1)]
    if config.feature_norm != "none":
        pool.insert(2 if config.feature_norm == "pooled" else 0, norm(features))
    *_, last = backbone
    backbone[last].extend(pool)
    fc1, fc2 = _split(mlp(features, config.projector, norm))
    if config.output_norm:
        fc2.append(norm(config.projector.width))
    parts = nn.ModuleDict({**backbone, "fc1": fc1, "fc2": fc2})
    _initialise(parts)
    return parts


def mlp(inputs: int, head: Head, norm: NormFactory) -> nn.Sequential:
    """Linear layers with a norm and an activation between them: projectors and predictors."""
    widths = [inputs, *[head.hidden] * (head.layers - 1), head.out]
    layers: list[nn.Module] = []
    for index, (before, after) in enumerate(pairwise(widths), start=1):
        last = index == head.layers
        layers.append(nn.Linear(before, after, bias=not (last and head.norm == "all")))
        if head.norm == "all" or (head.norm == "hidden" and not last):
            layers.append(norm(after))
        if not last:
            layers.append(nn.GELU() if head.activation == "gelu" else nn.ReLU(inplace=True))
    if head.norm == "all":
        layers[-1].requires_grad_(False)  # the last norm has no weights to learn
    if head.prototypes:
        for layer in layers:
            if isinstance(layer, nn.Linear):  # small weights tell images apart from the start, as in DINO
                nn.init.trunc_normal_(layer.weight, std=0.02)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
        layers.append(Prototypes(head.out, head.prototypes))
    return nn.Sequential(*layers)


class Prototypes(nn.Module):
    """Cosines with unit vectors: a linear layer with weight norm whose gains are 1 (DINO)."""

    def __init__(self, inputs: int, count: int):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(count, inputs))
        nn.init.trunc_normal_(self.weight, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        with in_full_precision(x.device):  # cosines are divided by small temperatures
            return F.linear(F.normalize(x.to(self.weight.dtype), dim=-1), F.normalize(self.weight, dim=-1))


def in_full_precision(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """A context without autocast. Meta tensors, of which only shapes are computed, never have it."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _split(projector: nn.Sequential) -> tuple[nn.Sequential, nn.Sequential]:
    """A projector up to its last layer, and that layer. Each of the two parts may have an averaged copy."""
    layers = list(projector)
    last = max(index for index, layer in enumerate(layers) if isinstance(layer, nn.Linear | Prototypes))
    return nn.Sequential(*layers[:last]), nn.Sequential(*layers[last:])


def feature_width(parts: nn.ModuleDict) -> int:
    """Width F of the features that the backbone returns and the projector takes."""
    layers = (layer for name in PROJECTOR for layer in parts[name].modules() if isinstance(layer, nn.Linear))
    return next(layers).in_features


def run_parts(parts: nn.ModuleDict, x: Tensor) -> Tensor:
    """Runs the parts one after another. In training mode their norms need a layout, see `laid_out`."""
    for part in parts.values():
        x = part(x)
    return x


def backbone_of(parts: nn.ModuleDict, feature_norm: bool = True) -> nn.ModuleDict:
    """The parts before the projector. A feature norm at their end (BN1) is left out unless `feature_norm` is true."""
    backbone = nn.ModuleDict({name: part for name, part in parts.items() if name not in PROJECTOR})
    if not feature_norm:
        *_, last = backbone
        layers = list(backbone[last].children())
        layers.remove([layer for layer in layers if isinstance(layer, Norm)][-1])
        backbone[last] = nn.Sequential(*layers)
    return backbone


class WideBlock(nn.Module):
    """Two 3 x 3 convolutions, each behind its norm (Zagoruyko and Komodakis 2016, "basic").

    Where the shape changes, the shortcut is a convolution too.
    """

    def __init__(self, inputs: int, outputs: int, stride: int, norm: NormFactory):
        super().__init__()
        self.bn1, self.conv1 = norm(inputs), nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
        self.bn2, self.conv2 = norm(outputs), nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.relu = _leaky_relu(self.bn1)
        same = inputs == outputs and stride == 1
        self.shortcut = None if same else nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = self.relu(self.bn1(x))
        return self.conv2(self.relu(self.bn2(self.conv1(active)))) + (
            x if self.shortcut is None else self.shortcut(active)
        )


def _leaky_relu(norm: Norm) -> nn.LeakyReLU:
    """The activation behind a norm that takes a sum of a residual stream.

    It works in place to save memory, but not where the norm returns its input: the shortcut and a tap need that too.
    """
    return nn.LeakyReLU(SLOPE, inplace=not norm.IDENTITY)


def _wide_resnet(config: Encoder, channels: int, norm: NormFactory) -> tuple[dict[str, nn.Sequential], int]:
    """Parts of FixMatch's Wide ResNet of depth 28, up to its last norm, and the width of its features."""
    width = config.width or 16
    parts = {"conv1": nn.Sequential(nn.Conv2d(channels, width, 3, padding=1, bias=False))}
    inputs = width
    for index in range(3):
        planes = width * WIDENINGS[config.name] * 2**index
        strides = (1 if index == 0 else 2, 1, 1, 1)
        widths = pairwise([inputs, *[planes] * len(strides)])
        parts[f"block{index + 1}"] = nn.Sequential(
            *(WideBlock(*pair, stride, norm) for pair, stride in zip(widths, strides, strict=True))
        )
        inputs = planes
    last = norm(inputs)
    parts["block3"].extend([last, _leaky_relu(last)])
    return parts, inputs


def unlike_torchvision(config: Encoder) -> str | None:
    """Why `plain_resnet_state` of this encoder fits none of torchvision's ResNets; None if it fits."""
    if config.name in WIDENINGS:
        return f"torchvision has no {config.name}"
    if not config.norm.batch_statistics:
        return f"encoder.norm.kind = {config.norm.kind}: torchvision's ResNet has batch norms"
    return (
        f"encoder.feature_norm = {config.feature_norm}: torchvision's ResNet has no such norm"
        if config.feature_norm != "none"
        else None
    )


@torch.no_grad()
def plain(module: nn.Module) -> nn.Module:
    """A copy of `module` with torch's batch norms, and with norms of samples as they are.

    Batch norms get the statistics that an evaluation uses. All parameters can be trained.
    """
    module = copy.deepcopy(module)
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if isinstance(child, Norm):
                setattr(parent, name, child.plain())
    return module.requires_grad_(True)


def plain_resnet_state(parts: nn.ModuleDict) -> dict[str, Tensor]:
    """The backbone's state under torchvision's names.

    Its norms are plain batch norms with the statistics that an evaluation uses.

    Loads with `strict=True` into the torchvision ResNet of that depth with `fc = Identity()`, if width is 64 and the
    stem standard.
    """
    states = {name: plain(part).state_dict() for name, part in backbone_of(parts).items()}
    return {_torchvision_name(part, name): tensor for part, state in states.items() for name, tensor in state.items()}


def _torchvision_name(part: str, name: str) -> str:
    if part == "conv1":
        layer, rest = name.split(".", 1)
        return f"{'conv1' if layer == '0' else 'bn1'}.{rest}"
    return f"layer{part[-1]}.{name}"


def _resnet(config: Encoder, channels: int, norm: NormFactory) -> tuple[dict[str, nn.Sequential], int]:
    """Parts of a torchvision ResNet up to the pooling, and the width of its features."""
    width, (block, depths) = config.width or 64, DEPTHS[config.name]
    small = config.stem == "small"
    conv = nn.Conv2d(
        channels, width, 3 if small else 7, stride=1 if small else 2, padding=1 if small else 3, bias=False
    )
    stem = nn.Sequential(conv, norm(width), nn.ReLU(inplace=True))
    parts = {"conv1": stem if small else stem.append(nn.MaxPool2d(3, stride=2, padding=1))}
    inputs = width
    for index, depth in enumerate(depths):
        planes = width * 2**index
        parts[f"block{index + 1}"] = nn.Sequential(
            *_blocks(block, inputs, planes, depth, stride=1 if index == 0 else 2, norm=norm)
        )
        inputs = planes * block.expansion
    return parts, inputs


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
