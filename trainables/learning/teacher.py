"""The teacher: an average of past students over some parts of the encoder, with norm statistics of its own."""

import torch
from torch import Tensor, nn

from trainables.config import schedules
from trainables.config import trial as c
from trainables.config.durations import Length, steps_in
from trainables.data import keyed
from trainables.learning import smoothing
from trainables.networks.encoders import run_parts
from trainables.networks.group import Group
from trainables.networks.norm_kinds import KINDS, convert
from trainables.networks.norms.base import Layout, Norm, Shards, begin, commit, gather, laid_out, norms_of


class Teacher(nn.Module):
    """An average of past students over the parts in `config.placement`; all other parts are shared with the student.

    The parts before the first averaged one do not run again: the student's activations are reused. Later parts that are
    not averaged run with the student's parameters and the teacher's buffers. Nothing here needs a gradient.

    Attributes:
        parts: the parts that the teacher runs.
        tap: the last part of the shared prefix; None if the teacher starts from the images.
        shuffles: whether forwards are those of Shuffle BN, see `shuffled`.
        follows: whether `update` averages statistics of the student's norms, which are then complete on every worker.
        averaged: the averaged parameters by part.
        norm_pairs: for each norm of `parts` that has batch statistics the name of its part, the norm itself and the
            student's norm in its place.

    Args:
        config: momentum, smoothing, placement and norm.
        student: the student's parts; the teacher starts as an exact copy, buffers included.
        seed: together with the step it keys the masks of Spatial Ensemble and the order of Shuffle BN.
        other: parts with other random weights, for a masked `first_copy`.
        run: length of the run, for the preserving probability of a masked `first_copy`.
    """

    def __init__(
        self,
        config: c.Teacher,
        student: nn.ModuleDict,
        seed: int,
        other: nn.ModuleDict | None = None,
        run: Length = Length(0, 0),
    ):
        super().__init__()
        self.config, self.seed = config, seed
        self.shuffles = KINDS[config.norm.kind].SHUFFLES
        names = list(student)
        averaged = [name for name in names if name in config.placement]
        executed = names[names.index(averaged[0]) :] if averaged else []
        self.parts = nn.ModuleDict({name: convert(student[name], config.norm.kind) for name in executed})
        self.parts.requires_grad_(False)
        shared = names[: len(names) - len(executed)]
        self.tap = shared[-1] if shared else None
        self._share(student, averaged)
        self.averaged: dict[str, list[Tensor]] = {name: list(self.parts[name].parameters()) for name in averaged}
        self._students: dict[str, list[Tensor]] = {name: list(student[name].parameters()) for name in averaged}
        self._norms = norms_of(self.parts)
        self.norm_pairs: list[tuple[str, Norm, Norm]] = [
            (name, *pair)
            for name in executed
            for pair in zip(norms_of(self.parts[name]), norms_of(student[name]), strict=True)
            if pair[0].BATCH_STATISTICS
        ]
        self.follows = any(norm.FOLLOWS_STUDENT for _, norm, _ in self.norm_pairs)
        for norm in self._norms:
            norm.configure(config.norm)
        if other is not None:
            self._mask_first_copy(other, run)

    def momentum(self, step: int, run: Length, part: str | None = None) -> float:
        """Keep-rate at a step, of one part if it is named."""
        return schedules.at(self.config.momentum_of(part), step, run)

    def alpha(self, step: int, run: Length) -> float:
        """Share of the current batch in Momentum BN's statistics at a step."""
        return schedules.at(self.config.norm.alpha, step, run)

    def p(self, step: int, run: Length) -> float:
        """Preserving probability at a step; 0 without Spatial Ensemble."""
        return 0.0 if self.config.smoothing.kind == "tma" else schedules.at(self.config.smoothing.p, step, run)

    @torch.no_grad()
    def update(self, step: int, run: Length, rank: int = 0) -> None:
        """Averages the student in, with the schedules' values at `step`.

        Units are kept unchanged with probability p. The others move:
        teacher <- momentum * teacher + (1 - momentum) * student.

        Args:
            step: 0-based index of the step.
            run: length of the run.
            rank: of this worker; matters only if each worker has masks of its own.
        """
        p, shares = self.p(step, run), {name: 1 - self.momentum(step, run, name) for name in self.averaged}
        of_worker = [rank] if self.config.smoothing.masks == "per_worker" else []
        self._blend(p, shares, (self.seed, "mask", step, *of_worker))
        own: list[Tensor] = []
        students: list[Tensor] = []
        moves: list[float] = []
        warm = step < steps_in(self.config.norm.warm_start, run)
        for name, norm, source in self.norm_pairs:
            if norm.FOLLOWS_STUDENT:  # with the mean keep-rate of the parameters; masks do not touch statistics
                own += [norm.running_mean, norm.running_var]
                students += source.evaluation_statistics()
                moves += [1.0 if warm or name not in shares else (1 - p) * shares[name]] * 2
        smoothing.blend(own, students, moves)

    @torch.no_grad()
    def forward(self, tapped: Tensor, layout: Layout) -> Tensor:
        """The projections [N, out] of N tapped samples of a layout."""
        with laid_out(self._norms, layout):
            return run_parts(self.parts, tapped)

    @torch.no_grad()
    def shuffled(self, tapped: Tensor, views: int, step: int, shards: Shards) -> Tensor:
        """The forward of Shuffle BN. Collective.

        Samples change places across the shards of the batch, view by view, and their outputs go back afterwards.

        Args:
            tapped: of this worker's samples, [views * samples, ...].
            views: number of views.
            step: key of the order.
            shards: of the trial; a forward is about all shards of a worker.

        Returns:
            The projections [views * samples, out] of this worker's samples, in their order.
        """
        group, layout = shards.group, shards.layout(samples=len(tapped) // (views * len(shards.mine)))
        counts = [count * layout.samples for count in shards.counts]
        batch, first = sum(counts), sum(counts[: group.rank])
        mine = slice(first, first + counts[group.rank])
        orders = [keyed.permutation(batch, self.seed, "shuffle", step, view).to(tapped.device) for view in range(views)]
        everything = [group.join(view, counts) for view in tapped.chunk(views)]
        moved = torch.cat([view[order[mine]] for view, order in zip(everything, orders, strict=True)])
        output = self(torch.empty_like(tapped).copy_(moved), layout)  # copied into the memory format of `tapped`
        outputs = [group.join(view, counts) for view in output.chunk(views)]
        return torch.cat([view[order.argsort()[mine]] for view, order in zip(outputs, orders, strict=True)])

    def begin(self, step: int, run: Length) -> None:
        """Opens the statistics of a step."""
        begin(self._norms, self.alpha(step, run))

    def commit(self, group: Group) -> None:
        """Closes the statistics of a step, after all its forwards. Collective."""
        commit(self._norms, group)

    def gather(self, group: Group) -> None:
        """Makes the buffers complete on every worker, before a checkpoint or an evaluation. Collective."""
        gather(self._norms, group)

    def encoder(self, student: nn.ModuleDict) -> nn.ModuleDict:
        """All parts of the teacher's network, the shared prefix included."""
        return nn.ModuleDict({name: self.parts[name] if name in self.parts else student[name] for name in student})

    @torch.no_grad()
    def distance(self, part: str | None = None) -> float:
        """|teacher - student| / |student| over the averaged parameters, or those of one part; 0 if there are none."""
        names = [part] if part else list(self.averaged)
        own, students = (self._tensors(side, names) for side in (self.averaged, self._students))
        if not own:
            return 0.0
        apart = torch._foreach_norm(torch._foreach_sub(own, students))
        whole = torch._foreach_norm(students)
        return (torch.stack(apart).norm() / torch.stack(whole).norm()).item()

    def own_state(self) -> dict[str, Tensor]:
        """Averaged parameters and all buffers by name, for checkpoints. The student saves the shared parameters."""
        borrowed = [name for name in self.parts if name not in self.averaged]
        shared = {f"{name}.{key}" for name in borrowed for key, _ in self.parts[name].named_parameters()}
        return {key: tensor for key, tensor in self.parts.state_dict().items() if key not in shared}

    def _blend(self, p: float, shares: dict[str, float], key: smoothing.Key) -> None:
        own, students = (self._tensors(side, list(self.averaged)) for side in (self.averaged, self._students))
        each = [shares[name] for name, tensors in self.averaged.items() for _ in tensors]
        if p == 0:
            smoothing.blend(own, students, each)
        elif self.config.smoothing.granularity == "layer":
            smoothing.blend_layers(own, students, each, p, key)
        elif self.config.smoothing.granularity == "channel":
            smoothing.blend_channels(own, students, each, p, key, self.config.smoothing.coupled)
        else:
            smoothing.blend_neurons(own, students, each, p, key)

    def _tensors(self, side: dict[str, list[Tensor]], names: list[str]) -> list[Tensor]:
        return [tensor for name in names for tensor in side.get(name, [])]

    @torch.no_grad()
    def _mask_first_copy(self, other: nn.ModuleDict, run: Length) -> None:
        """Copies the student through a mask into another initialisation, as Spatial Ensemble's released code does."""
        for name, tensors in self.averaged.items():
            for tensor, fresh in zip(tensors, other[name].parameters(), strict=True):
                tensor.copy_(fresh)
        self._blend(self.p(0, run), dict.fromkeys(self.averaged, 1.0), (self.seed, "first copy"))

    def _share(self, student: nn.ModuleDict, averaged: list[str]) -> None:
        """Puts the student's tensors, without their gradients, into the parts that run here but are not averaged."""
        for name in self.parts:
            if name not in averaged:
                for key, tensor in student[name].named_parameters():
                    path, _, leaf = key.rpartition(".")
                    setattr(
                        self.parts[name].get_submodule(path), leaf, nn.Parameter(tensor.detach(), requires_grad=False)
                    )
