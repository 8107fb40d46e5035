"""The student: an encoder, and beside it a predictor and an online probe."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainables.config.teacher import PROJECTOR
from trainables.config.trial import Head, TrialConfig
from trainables.networks.encoders import build_parts, feature_width, mlp
from trainables.networks.norm_kinds import factory
from trainables.networks.norms.base import Layout, Shards, laid_out, norms_of


class StudentOutput(NamedTuple):
    """What a student returns for N images.

    prediction: of the predictor, or the projection where the method has none, [N, out].
    projection: of the projector, [N, out].
    tapped: the input of the teacher, without gradient.
    features: of the backbone, without gradient, [N, F].
    """

    prediction: Tensor
    projection: Tensor
    tapped: Tensor
    features: Tensor


class Student(nn.Module):
    """The trained network: the encoder's parts, and a predictor and an online probe if the trial has them.

    `tap` names the last part of the prefix that the teacher shares with the student. The student hands the output of
    that part to the teacher, so that a shared prefix is computed once. With `tap` None it hands over the images.
    """

    def __init__(
        self, parts: nn.ModuleDict, predictor: nn.Module | None, tap: str | None, probe: nn.Linear | None = None
    ):
        super().__init__()
        self.parts, self.predictor, self.tap, self.probe = parts, predictor, tap, probe
        self.norms = norms_of(self)
        self.watch: Callable[[str, Tensor], None] | None = None  # receives the name and the output of each part

    @torch.no_grad()
    def shared(self, x: Tensor, layout: Layout) -> Tensor:
        """The shared prefix of images that the student does not learn from. Leaves nothing pending in its norms."""
        if self.tap is None:
            return x
        with laid_out(self.norms, layout):
            for name, part in self.parts.items():
                norms = norms_of(part)
                pending = [list(norm.pending) for norm in norms]
                x = part(x)
                for norm, before in zip(norms, pending, strict=True):
                    norm.pending = before
                if name == self.tap:
                    break
        return x

    def forward(self, x: Tensor, layout: Layout) -> StudentOutput:
        """Images [views * shards * samples, C, H, W] of a layout, through all parts and the predictor."""
        tapped = features = x
        with laid_out(self.norms, layout):
            for name, part in self.parts.items():
                if name == PROJECTOR[0]:
                    features = x.detach()
                x = part(x)
                if self.watch is not None:
                    self.watch(name, x)
                if name == self.tap:
                    tapped = x.detach()
            return StudentOutput(x if self.predictor is None else self.predictor(x), x, tapped, features)


def build_student(
    config: TrialConfig, channels: int, classes: int, shards: Shards, dtype: torch.dtype, seed: int
) -> Student:
    """The student of a trial, in training mode on its worker's device. Draws nothing from the global generator.

    Weights are drawn on the CPU, so that they are the same on every device; on meta, where they have no values, nothing
    of their size is held.

    Args:
        config: of the trial, resolved.
        channels: of the images.
        classes: of the data, for an online probe.
        shards: of the trial.
        dtype: of the parameters.
        seed: of the initial weights.
    """
    encoder, head = config.encoder, config.encoder.projector
    device = shards.group.device
    with torch.random.fork_rng(devices=[]), device if device.type == "meta" else torch.device("cpu"):
        torch.manual_seed(seed)
        parts = build_parts(encoder, channels, shards)
        predictor = None
        if hidden := config.method.predictor:
            predictor = mlp(head.width, Head(hidden=hidden, out=head.width), factory(encoder.norm, shards))
        probe = nn.Linear(feature_width(parts), classes) if config.online_probe.lr else None
    memory = torch.channels_last if config.train.channels_last else torch.contiguous_format
    student = Student(parts, predictor, None, probe)
    return student.to(device=device, dtype=dtype).to(memory_format=memory).train()
