"""Learner: student, teacher, method, optimiser and schedules, as one thing that makes a step and has a state."""

import contextlib
from inspect import signature
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from trainables import config as c
from trainables import discovery, optim
from trainables.encoders import Student, build_parts, mlp
from trainables.group import Group
from trainables.norm import Shards, begin, commit, norms_of
from trainables.teacher import Teacher

# torch 2.15 renamed the switch that keeps DDP's hands off the statistics, which `commit` looks after
_SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in signature(DistributedDataParallel).parameters else "broadcast_buffers"
DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


class Learner:
    """A student that learns from its teacher, on this worker's shards.

    Args:
        config: of the trial.
        channels: of the images.
        images: number of training images, which fixes the length of every schedule.
        group: the workers of the trial; methods that say so are collective.
    """

    def __init__(self, config: c.TrialConfig, channels: int, images: int, group: Group):
        self.config, self.group = config, group
        self.dtype = DTYPES[config.train.precision]
        self.steps_per_epoch, self.total_steps, self.warmup_steps = c.steps(config, images)
        num_shards = config.train.num_shards
        self.shards = Shards(config.train.shard_size, num_shards, group.share(num_shards))
        self.method = discovery.load("methods", config.method.name)
        self.student = self._build_student(channels)
        self.teacher = Teacher(config.teacher, self.student.parts, config.seed).train()
        self.student.tap = self.teacher.tap
        self.optimizer = optim.build(config.optim, self.student)
        self.step_index = 0
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=group.device)  # of this worker's shards, since the epoch began
        self.embedding_std = torch.zeros((), device=group.device)
        self._norms = norms_of(self.student)
        self._forward = self.student if group.size == 1 else DistributedDataParallel(self.student, **{_SYNC_BUFFERS: False})

    def step(self, views: Tensor) -> Tensor:
        """One optimiser step on this worker's shards; collective.

        Args:
            views: [V, n, C, H, W], where n is this worker's part of the batch, shard after shard.

        Returns:
            The mean loss of this worker's samples, a scalar without gradient.
        """
        step, total, images = self.step_index, self.total_steps, views.flatten(0, 1)
        if self.config.train.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        for group in self.optimizer.param_groups:
            group["lr"] = c.lr_at(self.config, step, total, self.warmup_steps)
        self.teacher.update(step, total)
        begin(self._norms, 0.0)
        self.teacher.begin(step, total)
        with self._autocast():
            output = self._forward(images)
            target = self.teacher(output.tapped)
        predictions, targets = (x.to(self.dtype).unflatten(0, (len(views), -1)) for x in (output.prediction, target))
        losses = self.method.loss(predictions, targets.detach())
        # DDP averages over workers; the batch's mean is wanted also where the workers hold different numbers of shards
        weight = self.group.size * len(self.shards.mine) / self.shards.total
        self.optimizer.zero_grad(set_to_none=True)
        (losses.mean() * weight).backward()
        self.optimizer.step()
        commit(self._norms, self.group)
        self.teacher.commit(self.group)
        self.loss_sum += losses.detach().sum(dtype=torch.float64)
        self.embedding_std = _spread(output.projection.detach())
        self.step_index += 1
        return losses.detach().mean()

    def close_epoch(self) -> dict[str, float]:
        """Mean loss since the epoch began, and what the monitors and schedules say of its last step. Collective; starts the next sum."""
        share = len(self.shards.mine) / self.shards.total
        steps = self.steps_per_epoch * self.shards.total * self.shards.size
        loss, spread = self.group.sum(torch.stack([self.loss_sum / steps, self.embedding_std.double() * share])).tolist()
        self.loss_sum.zero_()
        step, total = self.step_index - 1, self.total_steps
        return {
            "loss": loss,
            "embedding_std": spread,
            "teacher_distance": self.teacher.distance(),
            "momentum": self.teacher.momentum(step, total),
            "alpha": self.teacher.alpha(step, total),
            "p": self.teacher.p,
            "lr": c.lr_at(self.config, step, total, self.warmup_steps),
        }

    def network(self, which: str) -> nn.ModuleDict:
        """The parts of the "student" or of the "teacher". Collective, since Momentum BN's history is gathered."""
        if which == "student":
            return self.student.parts
        self.teacher.gather(self.group)
        return self.teacher.encoder(self.student.parts)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state as named tensors and plain values; equal on every worker. Collective."""
        self.teacher.gather(self.group)
        tensors = {f"student.{name}": tensor for name, tensor in self.student.state_dict().items()}
        tensors |= {f"teacher.{name}": tensor for name, tensor in self.teacher.own_state().items()}
        for name, parameter in self.student.named_parameters():
            tensors |= {f"optimizer.{name}.{slot}": value for slot, value in self.optimizer.state[parameter].items() if value is not None}
        sums = self.group.join(self.loss_sum[None], [1] * self.group.size)
        return tensors, {"step": self.step_index, "loss_sums": sums.tolist()}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, on any number of workers.

        Raises:
            ValueError: names or shapes differ from this Learner's.
        """
        wanted = {f"student.{k}": v for k, v in self.student.state_dict().items()}
        wanted |= {f"teacher.{k}": v for k, v in self.teacher.own_state().items()}
        found = {k: v for k, v in tensors.items() if not k.startswith("optimizer.")}
        odd = sorted(k for k in wanted.keys() | found.keys() if k not in wanted or k not in found or wanted[k].shape != found[k].shape)
        if odd:
            raise ValueError(f"the state does not fit this configuration: {', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}")
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(found[name])
            for name, parameter in self.student.named_parameters():
                prefix = f"optimizer.{name}."
                slots = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                # in the parameter's own memory format, so that the fused optimiser rounds as it did before
                self.optimizer.state[parameter] = {slot: torch.empty_like(parameter).copy_(value) for slot, value in slots.items()}
        self.step_index = values["step"]
        sums = values["loss_sums"]
        same_workers = len(sums) == self.group.size
        self.loss_sum.fill_(sums[self.group.rank] if same_workers else sum(sums) * (self.group.rank == 0))

    def _build_student(self, channels: int) -> Student:
        encoder, head = self.config.encoder, self.config.encoder.projector
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.config.seed)
            parts = build_parts(encoder, channels, self.shards)
            predictor = None
            if self.method.PREDICTOR:
                shape = c.Head(hidden=self.config.method.predictor_hidden, out=head.out)
                norm = type(norms_of(parts)[0])
                predictor = mlp(head.out, shape, lambda width: norm(width, self.shards))
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        return Student(parts, predictor, None).to(device=self.group.device, dtype=self.dtype).to(memory_format=layout).train()

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.config.train.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.group.device.type, dtype=torch.bfloat16)


def _spread(projection: Tensor) -> Tensor:
    """Mean standard deviation of unit embeddings, times sqrt(D): about 1 where they fill the sphere, 0 where they collapsed."""
    unit = F.normalize(projection.float(), dim=1)
    return unit.std(0).mean() * unit.shape[1] ** 0.5
