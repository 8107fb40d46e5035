"""The teacher: which parts of the encoder have an averaged copy, how they are averaged, and what becomes of their statistics."""

import torch
from torch import Tensor, nn

from trainables import config as c
from trainables import keyed, schedules
from trainables.encoders import run_parts
from trainables.group import Group
from trainables.norm import EmanNorm, begin, commit, convert, gather_history, norms_of


class Teacher(nn.Module):
    """An average of past students over the parts in `config.placement` (EMA placement); all other parts are shared with the student.

    Parts before the first averaged one are not run again: the student's activations are reused. Parts behind it that are not averaged
    run here with the student's own tensors, but with buffers of the teacher. Nothing here needs a gradient.

    Args:
        config: momentum, smoothing, placement and norm.
        student: the student's parts; the teacher starts as an exact copy, buffers included.
        seed: key of the masks of Spatial Ensemble, together with the step.
    """

    def __init__(self, config: c.Teacher, student: nn.ModuleDict, seed: int):
        super().__init__()
        self.config, self.seed = config, seed
        executed = c.PARTS[c.PARTS.index(config.placement[0]) :] if config.placement else ()
        self.parts = nn.ModuleDict({name: convert(student[name], config.norm.kind) for name in executed})
        self.parts.requires_grad_(False)
        self._share(student)
        averaged = [name for name in executed if name in config.placement]
        self._own: list[Tensor] = [p for name in averaged for p in self.parts[name].parameters()]
        self._students: list[Tensor] = [p for name in averaged for p in student[name].parameters()]
        self._norms = norms_of(self.parts)
        self._student_norms = norms_of(*(student[name] for name in executed))

    @property
    def tap(self) -> str | None:
        """The last part of the shared prefix, None where the teacher starts from the images."""
        prefix = [name for name in c.PARTS if name not in self.parts]
        return prefix[-1] if prefix else None

    def momentum(self, step: int, total: int) -> float:
        """Keep-rate at a step; Spatial Ensemble without temporal smoothing copies what it updates, so it is 0 there."""
        m = self.config.momentum
        return 0.0 if self.config.smoothing.kind == "se" else schedules.value(m.kind, m.base, m.final, step, total)

    def alpha(self, step: int, total: int) -> float:
        """Share of the current batch in Momentum BN's statistics at a step."""
        a = self.config.norm.alpha
        return schedules.value(a.kind, a.base, a.final, step, total)

    @property
    def p(self) -> float:
        """Preserving probability; 0 without Spatial Ensemble."""
        return 0.0 if self.config.smoothing.kind == "tma" else self.config.smoothing.p

    @torch.no_grad()
    def update(self, step: int, total: int) -> None:
        """Averages the student in, as the last optimiser step left it; runs before the forward of `step` (Momentum² Teacher, alg. 1).

        Units are kept unchanged with probability p, the others move by teacher <- momentum * teacher + (1 - momentum) * student.
        """
        momentum = self.momentum(step, total)
        own, students = self._own, self._students
        if self.p > 0:
            keep = keyed.uniform(torch.tensor([step]), len(own), self.seed, "mask")[0] < self.p
            own = [tensor for tensor, kept in zip(own, keep.tolist(), strict=True) if not kept]
            students = [tensor for tensor, kept in zip(students, keep.tolist(), strict=True) if not kept]
        if own:
            torch._foreach_lerp_(own, students, 1 - momentum)
        self._average_statistics(1 - (1 - self.p) * (1 - momentum))

    @torch.no_grad()
    def forward(self, tapped: Tensor) -> Tensor:
        """What the student tapped -> the teacher's projection [N, out]."""
        return run_parts(self.parts, tapped, next(iter(self.parts)), c.PARTS[-1]) if len(self.parts) else tapped

    def begin(self, step: int, total: int) -> None:
        """Opens the statistics of a step."""
        begin(self._norms, self.alpha(step, total))

    def commit(self, group: Group) -> None:
        """Closes the statistics of a step, once all its views went through. Collective."""
        commit(self._norms, group)

    def gather(self, group: Group) -> None:
        """Makes the buffers complete on every worker, for a checkpoint or an evaluation. Collective."""
        gather_history(self._norms, group)

    def encoder(self, student: nn.ModuleDict) -> nn.ModuleDict:
        """All parts of the teacher's network, the shared prefix included."""
        return nn.ModuleDict({name: self.parts[name] if name in self.parts else student[name] for name in c.PARTS})

    @torch.no_grad()
    def distance(self) -> float:
        """|teacher - student| / |student| over the averaged parameters; 0 where there are none."""
        if not self._own:
            return 0.0
        apart = torch._foreach_norm(torch._foreach_sub(self._own, self._students))
        whole = torch._foreach_norm(self._students)
        return (torch.stack(apart).norm() / torch.stack(whole).norm()).item()

    def own_state(self) -> dict[str, Tensor]:
        """Averaged parameters and all buffers, by name: what a checkpoint holds. Shared tensors are the student's to save."""
        borrowed = [name for name in self.parts if name not in self.config.placement]
        shared = {f"{name}.{key}" for name in borrowed for key, _ in self.parts[name].named_parameters()}
        return {key: tensor for key, tensor in self.parts.state_dict().items() if key not in shared}

    def _share(self, student: nn.ModuleDict) -> None:
        """Parts that run here but are not averaged use the student's tensors themselves, without their gradients."""
        for name in self.parts:
            if name not in self.config.placement:
                for key, tensor in student[name].named_parameters():
                    path, _, leaf = key.rpartition(".")
                    setattr(self.parts[name].get_submodule(path), leaf, nn.Parameter(tensor.detach(), requires_grad=False))

    def _average_statistics(self, keep: float) -> None:
        """EMAN: running statistics are averages of the student's, with the mean keep-rate of the parameters. Masks do not touch them."""
        own: list[Tensor] = []
        students: list[Tensor] = []
        for norm, source in zip(self._norms, self._student_norms, strict=True):
            if isinstance(norm, EmanNorm):
                own += [norm.running_mean, norm.running_var]
                students += [source.running_mean, source.running_var]
        if own:
            torch._foreach_lerp_(own, students, 1 - keep)
