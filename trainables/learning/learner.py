"""Learner: student, teacher, method, optimiser and schedules, as one thing that makes a step and has a state."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config import schedules
from trainables.config import trial as c
from trainables.data.feed import Batch
from trainables.data.images import Images
from trainables.data.pieces import Sight
from trainables.learning import optim
from trainables.learning.gradient_sum import GradientSum
from trainables.learning.loss_curve import LossCurve
from trainables.learning.methods.base import Method, Pass
from trainables.learning.monitoring import Monitors
from trainables.learning.monitors.base import Numbers, Watched
from trainables.learning.requests import Requests
from trainables.learning.teacher import Teacher
from trainables.networks.group import Group
from trainables.networks.initial import load_parts
from trainables.networks.norms.base import Layout, Shards, begin, commit, gather
from trainables.networks.student import StudentOutput, build_student

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


class Learner:
    """A student that learns from its teacher, on this worker's shards.

    Args:
        config: of the trial, resolved (`trainables.running.resolve`). It never changes.
        channels: of the images.
        images: number of training images, which fixes the length of every schedule.
        group: the workers of the trial; methods that say so are collective.
        classes: of the data, for methods that classify and for an online probe.
        initial: the network that `config.init` names, by the names of its tensors (`trainables.networks.initial`). None
            where the weights are random, or are restored by `load_state_dict`.
    """

    def __init__(
        self,
        config: c.TrialConfig,
        channels: int,
        images: int,
        group: Group,
        classes: int = 0,
        initial: Mapping[str, Tensor] | None = None,
    ):
        assert config.train.base_batch in (None, config.train.batch_size), "the equivalence rule was not applied"
        assert not config.method.CLASSIFIES or config.encoder.projector.out == classes, "the classes were not filled in"
        self.config, self.group = config, group
        self.dtype = DTYPES[config.train.precision]
        self.run = c.length(config, images)
        num_shards = config.train.num_shards
        self.shards = Shards(config.train.shard_size, num_shards, group.share(num_shards), group)
        assert isinstance(config.method, Method)
        self.method = config.method
        state = self.method.initial_state(config.encoder.projector.width, config.seed)
        self.method_state = {
            name: x.to(group.device, self.dtype if x.is_floating_point() else x.dtype) for name, x in state.items()
        }
        self.student = build_student(config, channels, classes, self.shards, self.dtype, config.seed)
        if initial is not None:
            load_parts(self.student.parts, initial, config.init)
        other = None
        if config.teacher.smoothing.first_copy == "masked":
            seed = config.seed + 2**31
            other = build_student(config, channels, classes, self.shards, self.dtype, seed).parts
        self.teacher = Teacher(config.teacher, self.student.parts, config.seed, other, self.run).train()
        self.student.tap = self.teacher.tap
        self.optimizer = optim.build(config.optim, self.student, config.online_probe.lr)
        self.monitors = Monitors(config.monitors, self.run)
        self.step_index = 0
        # of this worker's shards, since the epoch began
        self.loss_sum = torch.zeros((), dtype=torch.float64, device=group.device)
        self.loss_curve = LossCurve(self.run, num_shards, group.device)
        self.projections: list[Tensor] = []  # of the last step, for each pass [sights, shards, samples, D]
        # the largest absolute gradient at the output of each part, in the last step if monitors look at it
        self.output_gradients: dict[str, Tensor] = {}
        self._targets: list[Tensor] = []  # of this step's passes, if the method's state depends on them
        self._gradients = GradientSum(
            [p for p in self.student.parameters() if p.requires_grad], exact=config.train.exact
        )

    @property
    def requests(self) -> Requests:
        """What rank 0 asks of all workers, carried by the gradient sum of each step."""
        return self._gradients.requests

    @property
    def gradient_memory(self) -> int:
        """Bytes that hold gradients between steps."""
        return self._gradients.memory

    def passes(self) -> list[range]:
        """The shards of each forward of this worker: one by one if the arithmetic is exact, else all in one pass."""
        mine = self.shards.mine
        return [mine] if self.config.joint else [range(shard, shard + 1) for shard in mine]

    def step(self, batches: Iterable[Batch]) -> Tensor:
        """One optimiser step on this worker's shards. Collective.

        Args:
            batches: one for each of `passes()`.

        Returns:
            The sum of this worker's losses over its shards, each the mean of its samples: a float64 scalar without
            gradient. Divided by the number of shards and summed over the workers it is the loss of the batch.
        """
        step, rates, early = self.step_index, self.config.optim, self.config.teacher.update == "before"
        optim.schedule(
            self.optimizer, schedules.at(rates.lr, step, self.run), schedules.at(rates.weight_decay, step, self.run)
        )
        if early:
            self.teacher.update(step, self.run, self.group.rank)
        begin(self.student.norms, self.alpha(step))
        self.teacher.begin(step, self.run)
        loss_sum = torch.zeros_like(self.loss_sum)
        self.projections.clear()
        self.student.watch = self._watch_gradient if self.monitors.need_gradients(step + 1) else None
        self.output_gradients.clear()
        for shards, batch in zip(self.passes(), batches, strict=True):
            loss_sum += self.learn_from(shards, batch)
        self._gradients.close(self.group, self.shards.total)
        for part in self.method.frozen(step, self.run):
            self.student.parts[part].zero_grad()  # to None, which optimisers pass over
        self.optimizer.step()
        commit(self.student.norms, self.group)
        if self.teacher.follows:
            gather(self.student.norms, self.group)
        self.teacher.commit(self.group)
        self._close_method()
        if not early:
            self.teacher.update(step, self.run, self.group.rank)
        self.loss_sum += loss_sum
        self.loss_curve.add(step, loss_sum)
        self.step_index += 1
        self.monitors.trace(self.step_index, self.watched())
        return loss_sum

    def alpha(self, step: int) -> float:
        """Share of the current batch in the statistics of the student's Momentum BN at a step."""
        return schedules.at(self.config.encoder.norm.alpha, step, self.run)

    def learn_from(self, shards: range, batch: Batch) -> Tensor:
        """Forward and backward of some shards, a part of `step`; returns their sum of losses, in float64."""
        learnt, taught = self.method.student_sights, self.method.teacher_sights
        with self._autocast():
            outputs = [self.student(pictures, layout) for pictures, layout in self._forwards(shards, batch, learnt)]
            target = self.target(self._tapped(shards, batch, outputs), shards, len(taught)) if taught else None
        predictions, projections = (
            torch.cat(rows).to(self.dtype).unflatten(0, (len(learnt), -1))
            for rows in zip(*(o[:2] for o in outputs), strict=True)
        )
        targets = projections[:0] if target is None else target.to(self.dtype).unflatten(0, (len(taught), -1))
        given = Pass(
            predictions=predictions,
            targets=targets.detach(),
            averaged=bool(self.teacher.averaged),
            state=self.method_state,
            step=self.step_index,
            run=self.run,
            shards=len(shards),
            first=shards.start * self.shards.size,
            labels=batch.labels.get("labelled"),
            gather=self.shards.everyone,
        )
        loss = self.method.loss(given).unflatten(0, (len(shards), -1)).mean(1).sum()
        self._gradients.add(loss if self.student.probe is None else loss + self._probe_loss(shards, batch, outputs))
        self.projections.append(projections.detach().unflatten(1, (len(shards), -1)))
        if self.method_state:
            self._targets.append(given.targets)
        return loss.detach().double()

    def _probe_loss(self, shards: range, batch: Batch, outputs: Sequence[StudentOutput]) -> Tensor:
        """Cross entropy of the online probe over all that the student saw, summed over the shards.

        Pictures without a label add 0.
        """
        assert self.student.probe is not None
        sights = self.method.student_sights
        labels = torch.cat(
            [_joined(shards, (batch.labels[piece.stream] for piece in sight)).flatten() for sight in sights]
        )
        with self._autocast():
            logits = self.student.probe(torch.cat([output.features for output in outputs]))
        each = F.cross_entropy(logits.to(self.dtype), labels, ignore_index=-1, reduction="none")
        return each.sum() * len(shards) / len(labels)

    def _forwards(self, shards: range, batch: Batch, sights: Sequence[Sight]) -> Iterator[tuple[Tensor, Layout]]:
        """The forwards of some sights, those of one size together.

        Yields:
            Pictures [sights * shards * samples, C, H, W] and their layout.
        """
        memory = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        joined = [_joined(shards, (batch.pictures[piece] for piece in sight)) for sight in sights]
        for shape, alike in groupby(joined, key=lambda pictures: pictures.shape):
            pictures = torch.cat(list(alike)).flatten(0, 1).contiguous(memory_format=memory)
            yield pictures, self.shards.layout(shards, shape[1])

    def _tapped(self, shards: range, batch: Batch, outputs: Sequence[StudentOutput]) -> Tensor:
        """The teacher's input, [its sights * shards * samples, ...].

        What the student computed is not computed again.
        """
        learnt, taught = self.method.student_sights, self.method.teacher_sights
        if learnt == taught and len(outputs) == 1:
            return outputs[0].tapped
        if set(taught) <= set(learnt):
            samples = sum(len(output.tapped) for output in outputs) // len(learnt)
            pieces = (tapped for output in outputs for tapped in output.tapped.split(samples))
            seen = dict(zip(learnt, pieces, strict=True))
            return torch.cat([seen[sight] for sight in taught])
        ((pictures, layout),) = self._forwards(shards, batch, taught)
        return self.student.shared(pictures, layout)

    def _close_method(self) -> None:
        """Brings the teacher's outputs of the whole batch into the method's state. Collective."""
        if self.method_state:
            self.method.close(
                self.method_state, self.shards.everyone(torch.cat(self._targets, dim=1)), self.step_index, self.run
            )
            self._targets.clear()

    def target(self, tapped: Tensor, shards: range, sights: int) -> Tensor:
        """The teacher's projections [sights * samples, out] of what the student tapped. Collective if the norm is.

        Args:
            tapped: of all samples, [sights * samples, ...].
            shards: that the samples are of.
            sights: how many there are.
        """
        if self.teacher.shuffles:
            return self.teacher.shuffled(tapped, sights, self.step_index, self.shards)
        return self.teacher(tapped, self.shards.layout(shards, len(tapped) // (sights * len(shards))))

    def _watch_gradient(self, part: str, output: Tensor) -> None:
        """Notes the largest gradient that reaches the output of a part, over this worker's passes."""

        def note(gradient: Tensor) -> None:
            largest = gradient.detach().abs().amax().float()
            self.output_gradients[part] = torch.maximum(largest, self.output_gradients.get(part, largest))

        output.register_hook(note)

    def mean_loss(self, steps: int) -> float:
        """Mean loss of the batches since the epoch began, `steps` of them. Collective."""
        return self.group.sum(self.loss_sum.clone()).item() / (steps * self.shards.total)

    def spread_sum(self) -> Tensor:
        """Spread of the last step's embeddings, summed over this worker's shards: a float64 scalar.

        Of a shard it is the mean standard deviation of unit embeddings, times sqrt(D): about 1 where they fill the
        sphere, 0 where they collapsed.
        """
        total = torch.zeros_like(self.loss_sum)
        for projections in self.projections:
            unit = F.normalize(projections.float(), dim=-1)
            total += unit.transpose(0, 1).flatten(1, 2).std(1).mean(-1).sum() * unit.shape[-1] ** 0.5
        return total

    def close_epoch(self) -> dict[str, float]:
        """Mean loss since the epoch began, and the values of its last step. Collective; starts the next sum."""
        # divided after the sum, so that sums stay exact
        loss, spread = self.group.sum(torch.stack([self.loss_sum, self.spread_sum()])).tolist()
        self.loss_sum.zero_()
        self.loss_curve.close_epoch(self.step_index, self.group)
        step, run = self.step_index - 1, self.run
        momentum_bn = self.config.encoder.norm.kind == "momentum"
        return {
            "loss": loss / (run.per_epoch * self.shards.total),
            "embedding_std": spread / self.shards.total,
            "teacher_distance": self.teacher.distance(),
            "momentum": self.teacher.momentum(step, run),
            "alpha": self.teacher.alpha(step, run),
            **({"student_alpha": self.alpha(step)} if momentum_bn else {}),
            "p": self.teacher.p(step, run),
            "lr": schedules.at(self.config.optim.lr, step, run),
            "weight_decay": schedules.at(self.config.optim.weight_decay, step, run),
        }

    def watched(self) -> Watched:
        """What monitors see, after a step."""
        return Watched(self.student, self.teacher, self.shards, self.dtype, self.projections, self.output_gradients)

    def watch(self, validation: Images) -> Numbers:
        """The numbers of the trial's monitors, after the last step of an epoch. Collective."""
        self.gather()
        return self.monitors.measure(self.watched(), validation)

    def gather(self) -> None:
        """Makes the buffers of all norms complete on every worker. Collective."""
        gather(self.student.norms, self.group)
        self.teacher.gather(self.group)

    def network(self, which: str) -> nn.ModuleDict:
        """The parts of the "student" or of the "teacher". Collective, since Momentum BN's history is gathered."""
        self.gather()
        return self.student.parts if which == "student" else self.teacher.encoder(self.student.parts)

    def state_dict(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """All state as named tensors and plain values; equal on every worker. Collective."""
        self.gather()
        tensors = {f"student.{name}": tensor for name, tensor in self.student.state_dict().items()}
        tensors |= {f"teacher.{name}": tensor for name, tensor in self.teacher.own_state().items()}
        tensors |= {f"method.{name}": tensor for name, tensor in self.method_state.items()}
        tensors |= optim.state_of(self.optimizer, self.student)
        tensors |= self.monitors.state_dict()
        if self._teachers_differ:
            for name, tensor in self.teacher.own_state().items():
                for rank, one in enumerate(self.group.join(tensor[None], [1] * self.group.size)):
                    tensors[f"teachers.{rank}.{name}"] = one
        rows = self.group.join(
            torch.cat([self.loss_sum[None], self.loss_curve.sums])[None], [1] * self.group.size
        ).tolist()
        plain = {
            "loss_sums": [row[0] for row in rows],
            "loss_windows": [row[1:] for row in rows],
            "loss_points": [*self.loss_curve.points],
        }
        return tensors, {"step": self.step_index, **plain}

    def load_state_dict(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Restores what `state_dict` gave, on any number of workers.

        Raises:
            ValueError: names or shapes differ from this Learner's.
        """
        wanted = {f"student.{k}": v for k, v in self.student.state_dict().items()}
        wanted |= {f"teacher.{k}": v for k, v in self.teacher.own_state().items()}
        wanted |= {f"method.{k}": v for k, v in self.method_state.items()}
        found = {k: v for k, v in tensors.items() if k.startswith(("student.", "teacher.", "method."))}
        sums = values["loss_sums"]
        same_workers = len(sums) == self.group.size
        if self._teachers_differ and same_workers:
            mine = f"teachers.{self.group.rank}."
            found |= {f"teacher.{k.removeprefix(mine)}": v for k, v in tensors.items() if k.startswith(mine)}
        odd = sorted(
            k
            for k in wanted.keys() | found.keys()
            if k not in wanted or k not in found or wanted[k].shape != found[k].shape
        )
        if odd:
            raise ValueError(
                f"the state does not fit this configuration: {', '.join(odd[:3])}{' ...' if len(odd) > 3 else ''}"
            )
        with torch.no_grad():
            for name, tensor in wanted.items():
                tensor.copy_(found[name])
        optim.restore(self.optimizer, self.student, tensors)
        self.monitors.load_state_dict(tensors, self.group.device)
        self.step_index = values["step"]
        self.loss_sum.fill_(sums[self.group.rank] if same_workers else sum(sums) * (self.group.rank == 0))
        self.loss_curve.restore(values.get("loss_windows"), values.get("loss_points", []), self.step_index, self.group)

    @property
    def _teachers_differ(self) -> bool:
        return self.config.teacher.smoothing.masks == "per_worker" and self.group.size > 1

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.config.train.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.group.device.type, dtype=torch.bfloat16)


def _joined(shards: range, pieces: Iterable[Tensor]) -> Tensor:
    """Samples of several pieces [n, ...] that share a sight, by shard: [shards, samples, ...]."""
    return torch.cat([piece.unflatten(0, (len(shards), -1)) for piece in pieces], dim=1)
