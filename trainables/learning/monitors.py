"""What is watched in a trial: each monitor is a function of the Learner at the end of an epoch, switched on by its name in `monitors`.

A monitor gives "monitor/..." metrics, which TensorBoard shows with the network that they watch. All are collective and say the same on
every worker, whatever their number, up to rounding.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from trainables.data import augment
from trainables.data.images import Images
from trainables.learning import geometry
from trainables.networks.encoders import run_parts
from trainables.networks.modes import in_evaluation_mode
from trainables.networks.norm import EPS

if TYPE_CHECKING:
    from trainables.learning.learner import Learner

PROBES = 256  # validation images on which the drift of outputs is measured
FILTERS = 16  # of the projector's last layer that are followed
Numbers = dict[str, float]


@torch.no_grad()
def measure(learner: "Learner", validation: Images) -> Numbers:
    """All that the trial's configuration switches on."""
    found: Numbers = {}
    for name in learner.config.monitors:
        found |= {f"monitor/{key}": value for key, value in KINDS[name](learner, validation).items()}
    return found


def distance(learner: "Learner", validation: Images) -> Numbers:
    """|teacher - student| / |student| of each averaged part."""
    return {f"distance/{part}": learner.teacher.distance(part) for part in learner.teacher.averaged}


def statistics(learner: "Learner", validation: Images) -> Numbers:
    """Mismatch of the statistics that evaluations use, teacher against student, over all channels of the norms that the teacher runs.

    mean: |teacher's mean - student's| in the student's standard deviations. variance: |log(teacher's variance / student's)|.
    """
    learner.teacher.gather(learner.group)
    means, variances = [], []
    for _, teacher, student in learner.teacher.norm_pairs:
        (mean, var), (student_mean, student_var) = teacher.evaluation_statistics(), student.evaluation_statistics()
        means.append((mean - student_mean).abs() / (student_var + EPS).sqrt())
        variances.append(((var + EPS) / (student_var + EPS)).log().abs())
    if not means:
        return {}
    return {
        "statistics/mean": torch.cat(means).mean().item(),
        "statistics/variance": torch.cat(variances).mean().item(),
    }


def embedding(learner: "Learner", validation: Images) -> Numbers:
    """The student's projections of the last batch: effective rank, alignment and uniformity.

    The formulas are those of `trainables.learning.geometry`.
    """
    rows = learner.everyone(
        torch.cat([p.double().flatten(1, 2) for p in learner.projections], dim=1)
    )  # [views, samples, D]
    found = {
        "embedding/effective_rank": geometry.effective_rank(rows[0]),
        "embedding/uniformity": geometry.uniformity(rows[0]),
    }
    if len(rows) > 1:
        found["embedding/alignment"] = geometry.alignment(rows[0], rows[1])
    return found


def gradients(learner: "Learner", validation: Images) -> Numbers:
    """Largest |dL/d output| of each part in the last step, L the mean over the batch (placement paper, Fig. 5)."""
    names = list(learner.student.parts)
    largest = learner.group.max(torch.stack([learner.output_gradients[name] for name in names]))
    return {
        f"gradient/{name}": value for name, value in zip(names, (largest / learner.shards.total).tolist(), strict=True)
    }


def drift(learner: "Learner", validation: Images) -> Numbers:
    """Mean squared change of the teacher since the last evaluated epoch (Spatial Ensemble, Fig. 3).

    Of its averaged parameters, and of its projections of validation images in evaluation mode.
    """
    own = [tensor for tensors in learner.teacher.averaged.values() for tensor in tensors]
    now = {"outputs": _outputs(learner.network("teacher"), learner, validation)}
    if own:
        now["parameters"] = torch.cat([tensor.flatten() for tensor in own])
    before, learner.remembered = learner.remembered, now
    return {f"drift/{name}": (now[name] - before[name]).square().mean().item() for name in now if name in before}


def filters(learner: "Learner", validation: Images) -> Numbers:
    """The first rows of the projector's last layer, points in a plane where `encoder.projector.hidden` is 2 (placement paper, Fig. 2)."""
    found: Numbers = {}
    for which, parts in (
        ("student", learner.student.parts),
        ("teacher", learner.teacher.encoder(learner.student.parts)),
    ):
        rows = parts["fc2"].get_parameter("0.weight")[:FILTERS].tolist()
        found |= {
            f"filter/{which}/{row}/{axis}": value
            for row, point in enumerate(rows)
            for axis, value in zip("xy", point, strict=True)
        }
    return found


def _outputs(parts: nn.ModuleDict, learner: "Learner", validation: Images) -> Tensor:
    """Projections of the first validation images, in evaluation mode."""
    index = torch.arange(min(PROBES, len(validation)))
    images = augment.standardise(validation.batch(index, learner.group.device, learner.dtype))
    with in_evaluation_mode(parts):
        return run_parts(parts, images)


KINDS: dict[str, Callable[["Learner", Images], Numbers]] = {
    kind.__name__: kind for kind in (distance, statistics, embedding, gradients, drift, filters)
}
