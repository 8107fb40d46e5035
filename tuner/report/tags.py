"""Under which names TensorBoard shows a trial's metrics, and what it says of them.

TensorBoard sorts groups by name, so score comes first: score, student, teacher, train.
"""

from collections.abc import Iterable
from typing import NamedTuple

from trainables.config import trial as c
from tuner.plan.objective import METRICS


class Tag(NamedTuple):
    """A curve: its name, and what it shows with its unit."""

    name: str
    text: str


BEST = Tag(
    "score/best",
    "Best value of the objective so far, of the evaluated epochs. It is chosen on the split that it is measured on.",
)
EPOCH = Tag("train/epoch", "Epochs that have ended.")
LOSS = Tag("train/loss", "Mean loss of the batches since the point before, at most 20 points in an epoch.")
COLLAPSED = Tag("student/collapsed", "1 where the student maps all images to about one embedding, else 0.")
SCORES = {
    "rankme": "RankMe: effective rank of the embeddings, in dimensions",
    "lidar": "LiDAR: effective rank of what tells images from views of an image, in dimensions",
    "alignment": "Mean squared distance of the unit embeddings of two views of an image; less is better",
    "uniformity": "Log of the mean Gaussian potential of pairs of unit embeddings; less is better",
    "loss": "Mean loss over an epoch",
}
OTHERS = {
    "lr": Tag("train/learning_rate", "Learning rate of the epoch's last step."),
    "weight_decay": Tag("train/weight_decay", "Weight decay of the epoch's last step."),
    "time/images_per_second": Tag(
        "train/images_per_second", "Training images in a second, all workers together, without evaluation."
    ),
    "time/workers": Tag("train/workers", "Workers that trained the epoch's last step."),
    "momentum": Tag(
        "teacher/momentum",
        "Keep-rate in the epoch's last step: teacher <- momentum * teacher + (1 - momentum) * student.",
    ),
    "alpha": Tag("teacher/alpha", "Share of the current batch in Momentum BN's statistics, in the epoch's last step."),
    "student_alpha": Tag(
        "student/alpha", "Share of the current batch in the student's Momentum BN, in the epoch's last step."
    ),
    "p": Tag(
        "teacher/p",
        "Preserving probability in the epoch's last step: the chance that a unit of the teacher is kept unchanged.",
    ),
    "teacher_distance": Tag(
        "teacher/distance_to_student", "|teacher - student| / |student| over all averaged parameters."
    ),
    "embedding_std": Tag(
        "student/embedding_std",
        "Spread of the last batch's embeddings: about 1 where they fill the sphere, 0 where they collapse.",
    ),
}
MONITORS = {  # by the first part of their names; the monitors' files have them
    kind: Tag(*curve) for monitor in c.MONITORS.values() for kind, curve in monitor.CURVES.items()
}


def score(metric: str) -> Tag:
    """The curve of a score."""
    if metric in SCORES:
        return Tag(f"score/{metric}", f"{SCORES[metric]}.")
    among = " among the five likeliest" if metric.endswith("top5") else ""
    return Tag(f"score/{metric}", f"Share of validation images whose class was told right{among}, from 0 to 1.")


def tags_of(metrics: Iterable[str], teacher: c.Teacher) -> dict[str, Tag]:
    """The curves that an epoch's metrics belong to, by metric. What the teacher does not use has no curve.

    Args:
        metrics: names of the metrics.
        teacher: of the trial.
    """
    used = {
        "momentum": bool(teacher.placement) and teacher.smoothing.kind != "se",
        "alpha": bool(teacher.placement) and teacher.norm.kind == "momentum",
        "p": bool(teacher.placement) and teacher.smoothing.kind != "tma",
    }
    tags = {metric: tag for metric in metrics if used.get(metric, True) and (tag := _tag(metric))}
    return {metric: tag for metric, tag in tags.items() if teacher.placement or not tag.name.startswith("teacher/")}


def _tag(metric: str) -> Tag | None:
    if metric in OTHERS:
        return OTHERS[metric]
    if metric.startswith("monitor/"):
        name = metric.removeprefix("monitor/")
        for kind, tag in MONITORS.items():
            if name.startswith(f"{kind}/"):
                return Tag(f"{tag.name}{name.removeprefix(kind)}", tag.text)
        return Tag(f"watched/{name}", f"Of the monitor '{name}'.")  # behind all other groups
    return score(metric) if metric in METRICS.keys() - {"loss"} or metric.startswith("corruptions/") else None
