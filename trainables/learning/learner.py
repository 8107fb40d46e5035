"""Learner: student, teacher, method, optimiser and schedules, as one thing that makes a step and has a state."""

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainables.config import equivalence, schedules
from trainables.config import trial as c
from trainables.data.feed import Batch
from trainables.data.pieces import Sight
from trainables.learning import optim
from trainables.learning.loss_curve import LossCurve
from trainables.learning.methods.base import Method, Pass
from trainables.learning.teacher import Teacher
from trainables.networks.encoders import Student, StudentOutput, build_parts, feature_width, mlp
from trainables.networks.group import Group
from trainables.networks.norm import KINDS, Shards, begin, commit, norms_of

DTYPES = {"fp32": torch.float32, "bf16": torch.float32, "fp64": torch.float64}


class Learner:
    """A student that learns from its teacher, on this worker's shards.

    Args:
        config: of the trial.
        channels: of the images.
        images: number of training images, which fixes the length of every schedule.
        group: the workers of the trial; methods that say so are collective.
        classes: of the data, for methods that classify and for an online probe.
    """

    def __init__(self, config: c.TrialConfig, channels: int, images: int, group: Group, classes: int = 0):
        config = equivalence.scaled(config)
        if config.method.CLASSIFIES:
            config = c.changed(config.plain(), {"encoder.projector.out": classes})
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
        self.student = self._build_student(channels, config.seed, classes)
        masked = config.teacher.smoothing.first_copy == "masked"
        other = self._build_student(channels, config.seed + 2**31, classes).parts if masked else None
        self.teacher = Teacher(config.teacher, self.student.parts, config.seed, other, self.run).train()
        self.student.tap = self.teacher.tap
        self.optimizer = optim.build(config.optim, self.student, config.online_probe.lr)
        self.step_index = 0
        self.loss_sum = torch.zeros(
            (), dtype=torch.float64, device=group.device
        )  # of this worker's shards, since the epoch began
        self.loss_curve = LossCurve(self.run, num_shards, group.device)
        self.projections: list[Tensor] = []  # of the last step, for each pass [sights, shards, samples, D]
        self.output_gradients: dict[
            str, Tensor
        ] = {}  # of the last step of an epoch: largest absolute value for each part
        self.remembered: dict[str, Tensor] = {}  # what the drift of the teacher is measured against
        self._norms = norms_of(self.student)
        self._targets: list[Tensor] = []  # of this step's passes, where the method's state depends on them
        self._gradients = GradientSum(
            [p for p in self.student.parameters() if p.requires_grad], exact=config.train.exact
        )

    def passes(self) -> list[range]:
        """The shards of this worker as they go through the networks: one after another where the arithmetic is exact, else all at once."""
        mine = self.shards.mine
        return [mine] if self.config.joint else [range(shard, shard + 1) for shard in mine]

    def step(self, batches: Iterable[Batch]) -> Tensor:
        """One optimiser step on this worker's shards. Collective.

        Args:
            batches: one for each of `passes()`.

        Returns:
            The sum of this worker's losses over its shards, each the mean of its samples: a float64 scalar without gradient. Divided by
            the number of shards and summed over the workers it is the loss of the batch.
        """
        step, rates, early = self.step_index, self.config.optim, self.config.teacher.update == "before"
        optim.schedule(
            self.optimizer, schedules.at(rates.lr, step, self.run), schedules.at(rates.weight_decay, step, self.run)
        )
        if early:
            self.teacher.update(step, self.run, self.group.rank)
        begin(self._norms, 0.0)
        self.teacher.begin(step, self.run)
        loss_sum = torch.zeros_like(self.loss_sum)
        self.projections.clear()
        last = (step + 1) % self.run.per_epoch == 0
        self.student.watch = self._watch_gradient if last and "gradients" in self.config.monitors else None
        self.output_gradients.clear()
        for shards, batch in zip(self.passes(), batches, strict=True):
            loss_sum += self._learn_from(shards, batch)
        self._gradients.close(self.group, self.shards.total)
        for part in self.method.frozen(step, self.run):
            self.student.parts[part].zero_grad()  # to None, which optimisers pass over
        self.optimizer.step()
        commit(self._norms, self.group)
        self.teacher.commit(self.group)
        self._close_method()
        if not early:
            self.teacher.update(step, self.run, self.group.rank)
        self.loss_sum += loss_sum
        self.loss_curve.add(step, loss_sum)
        self.step_index += 1
        return loss_sum

    def _learn_from(self, shards: range, batch: Batch) -> Tensor:
        """Forward and backward of some shards; returns their sum of losses, in float64."""
        self.shards.current = shards
        learnt, taught = self.method.student_sights, self.method.teacher_sights
        with self._autocast():
            outputs = [self.student(pictures) for pictures in self._forwards(batch, learnt)]
            target = self.target(self._tapped(batch, outputs), len(taught)) if taught else None
        predictions, projections = (
            torch.cat(rows).to(self.dtype).unflatten(0, (len(learnt), -1))
            for rows in zip(*(o[:2] for o in outputs), strict=True)
        )
        given = Pass(
            predictions,
            projections[:0].detach()
            if target is None
            else target.detach().to(self.dtype).unflatten(0, (len(taught), -1)),
            bool(self.teacher.averaged),
            self.method_state,
            self.step_index,
            self.run,
            len(shards),
            shards.start * self.shards.size,
            batch.labels.get("labelled"),
            self.everyone,
        )
        loss = self.method.loss(given).unflatten(0, (len(shards), -1)).mean(1).sum()
        self._gradients.add(loss if self.student.probe is None else loss + self._probe_loss(batch, outputs))
        self.projections.append(projections.detach().unflatten(1, (len(shards), -1)))
        if self.method_state:
            self._targets.append(given.targets)
        return loss.detach().double()

    def _probe_loss(self, batch: Batch, outputs: Sequence[StudentOutput]) -> Tensor:
        """Cross entropy of the online probe over all that the student saw, a sum over the shards; pictures without a label add nothing."""
        assert self.student.probe is not None
        sights = self.method.student_sights
        labels = torch.cat([self._joined(batch.labels[piece.stream] for piece in sight).flatten() for sight in sights])
        with self._autocast():
            logits = self.student.probe(torch.cat([output.features for output in outputs]))
        each = F.cross_entropy(logits.to(self.dtype), labels, ignore_index=-1, reduction="none")
        return each.sum() * len(self.shards.current) / len(labels)

    def _joined(self, pieces: Iterable[Tensor]) -> Tensor:
        """Samples of several pieces [n, ...] that share a sight: [shards, samples, ...]."""
        return torch.cat([piece.unflatten(0, (len(self.shards.current), -1)) for piece in pieces], dim=1)

    def _forwards(self, batch: Batch, sights: Sequence[Sight]) -> Iterator[Tensor]:
        """Pictures [sights * shards * samples, C, H, W] of some sights, those of one size together."""
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        joined = [self._joined(batch.pictures[piece] for piece in sight) for sight in sights]
        for shape, alike in groupby(joined, key=lambda pictures: pictures.shape):
            self.shards.samples = shape[1]
            yield torch.cat(list(alike)).flatten(0, 1).contiguous(memory_format=layout)

    def _tapped(self, batch: Batch, outputs: Sequence[StudentOutput]) -> Tensor:
        """What the teacher takes, [its sights * shards * samples, ...]; what the student saw too is not computed again."""
        learnt, taught = self.method.student_sights, self.method.teacher_sights
        if learnt == taught and len(outputs) == 1:
            return outputs[0].tapped
        if set(taught) <= set(learnt):
            samples = sum(len(output.tapped) for output in outputs) // len(learnt)
            seen = dict(
                zip(learnt, (tapped for output in outputs for tapped in output.tapped.split(samples)), strict=True)
            )
            return torch.cat([seen[sight] for sight in taught])
        (pictures,) = self._forwards(batch, taught)
        return self.student.shared(pictures)

    def everyone(self, rows: Tensor) -> Tensor:
        """[V, samples of this worker, D], ordered by shard -> [V, samples of all workers, D], with gradient. Collective."""
        of_a_shard = rows.shape[1] // len(self.shards.mine)
        counts = [shards * of_a_shard for shards in self.shards.counts]
        return (
            self.group.gather(rows.transpose(0, 1), counts).transpose(0, 1).contiguous()
        )  # sums over it go in one order for any number

    def _close_method(self) -> None:
        """Brings the teacher's outputs of the whole batch into the method's state. Collective."""
        if self.method_state:
            self.method.close(
                self.method_state, self.everyone(torch.cat(self._targets, dim=1)), self.step_index, self.run
            )
            self._targets.clear()

    def target(self, tapped: Tensor, sights: int) -> Tensor:
        """The teacher's projections [sights * samples, out] of what the student tapped. Collective where the norm is."""
        self.shards.samples = len(tapped) // (sights * len(self.shards.current))
        if self.config.teacher.norm.kind == "shuffle":
            return self.teacher.shuffled(tapped, sights, self.step_index, self.shards)
        return self.teacher(tapped)

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

        Of a shard it is the mean standard deviation of unit embeddings, times sqrt(D): about 1 where they fill the sphere, 0 where they
        collapsed.
        """
        total = torch.zeros_like(self.loss_sum)
        for projections in self.projections:
            unit = F.normalize(projections.float(), dim=-1)
            total += unit.transpose(0, 1).flatten(1, 2).std(1).mean(-1).sum() * unit.shape[-1] ** 0.5
        return total

    def close_epoch(self) -> dict[str, float]:
        """Mean loss since the epoch began, and what the monitors and schedules say of its last step. Collective; starts the next sum."""
        loss, spread = self.group.sum(
            torch.stack([self.loss_sum, self.spread_sum()])
        ).tolist()  # divided later, so that sums stay exact
        self.loss_sum.zero_()
        self.loss_curve.close_epoch(self.step_index, self.group)
        step, run = self.step_index - 1, self.run
        return {
            "loss": loss / (run.per_epoch * self.shards.total),
            "embedding_std": spread / self.shards.total,
            "teacher_distance": self.teacher.distance(),
            "momentum": self.teacher.momentum(step, run),
            "alpha": self.teacher.alpha(step, run),
            "p": self.teacher.p(step, run),
            "lr": schedules.at(self.config.optim.lr, step, run),
            "weight_decay": schedules.at(self.config.optim.weight_decay, step, run),
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
        tensors |= {f"method.{name}": tensor for name, tensor in self.method_state.items()}
        for name, parameter in self.student.named_parameters():
            tensors |= {
                f"optimizer.{name}.{slot}": value
                for slot, value in self.optimizer.state[parameter].items()
                if value is not None
            }
        tensors |= {f"remembered.{name}": tensor for name, tensor in self.remembered.items()}
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
            for name, parameter in self.student.named_parameters():
                prefix = f"optimizer.{name}."
                slots = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
                # in the parameter's own memory format, so that the optimiser rounds as it did before
                self.optimizer.state[parameter] = {
                    slot: torch.empty_like(parameter).copy_(value) for slot, value in slots.items()
                }
        prefix = "remembered."
        self.remembered = {
            k.removeprefix(prefix): v.to(self.group.device) for k, v in tensors.items() if k.startswith(prefix)
        }
        self.step_index = values["step"]
        self.loss_sum.fill_(sums[self.group.rank] if same_workers else sum(sums) * (self.group.rank == 0))
        self.loss_curve.restore(values.get("loss_windows"), values.get("loss_points", []), self.step_index, self.group)

    @property
    def _teachers_differ(self) -> bool:
        return self.config.teacher.smoothing.masks == "per_worker" and self.group.size > 1

    def _build_student(self, channels: int, seed: int, classes: int) -> Student:
        encoder, head = self.config.encoder, self.config.encoder.projector
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            parts = build_parts(encoder, channels, self.shards)
            predictor = None
            if hidden := self.config.method.predictor:
                predictor = mlp(
                    head.width, c.Head(hidden=hidden, out=head.width), partial(KINDS[encoder.norm], shards=self.shards)
                )
            probe = nn.Linear(feature_width(parts), classes) if self.config.online_probe.lr else None
        layout = torch.channels_last if self.config.train.channels_last else torch.contiguous_format
        return (
            Student(parts, predictor, None, probe)
            .to(device=self.group.device, dtype=self.dtype)
            .to(memory_format=layout)
            .train()
        )

    def _autocast(self) -> contextlib.AbstractContextManager:
        if self.config.train.precision != "bf16":
            return contextlib.nullcontext()
        return torch.autocast(self.group.device.type, dtype=torch.bfloat16)


class GradientSum:
    """Gradients of a sum of losses that come in passes and from several workers, put into `parameter.grad` as one mean.

    With `exact`, sums are taken in float64: a sum of float32 gradients is then free of rounding, whatever its order, unless they differ by
    more than 2^29 in size. So the mean is the same bits for any number of workers. Without, they are taken in the parameters' own type.
    """

    def __init__(self, parameters: list[nn.Parameter], exact: bool):
        self.parameters = parameters
        first = parameters[0]
        self._sum = torch.zeros(
            sum(p.numel() for p in parameters), dtype=torch.float64 if exact else first.dtype, device=first.device
        )
        self._mean = torch.zeros_like(self._sum, dtype=first.dtype)
        pieces = self._mean.split([p.numel() for p in parameters])
        self._grads = [piece.as_strided(p.shape, p.stride()) for piece, p in zip(pieces, parameters, strict=True)]

    def add(self, loss: Tensor) -> None:
        """Adds the gradient of a loss."""
        found = torch.autograd.grad(loss, self.parameters)
        self._sum += torch.cat([_in_memory_order(g, p) for g, p in zip(found, self.parameters, strict=True)])

    def close(self, group: Group, count: int) -> None:
        """Sums over the workers, divides by `count`, hands the result to the parameters and starts anew. Collective."""
        self._mean.copy_(group.sum(self._sum).div_(count))
        self._sum.zero_()
        for parameter, grad in zip(self.parameters, self._grads, strict=True):
            parameter.grad = grad


def _in_memory_order(gradient: Tensor, parameter: Tensor) -> Tensor:
    """A gradient as a vector, in the order in which the parameter lies in memory."""
    if gradient.stride() != parameter.stride():
        gradient = torch.empty_like(parameter).copy_(gradient)
    return gradient.as_strided((gradient.numel(),), (1,))
