"""The schedule of the teacher's keep-rate. Searched as the student's share 1 - momentum, on a log scale."""

from typing import Any

from search_spaces import Known, Trial

KNOWN_GOOD: Known = (
    {
        "momentum_schedule": "cosine",
        "student_share": 0.01,
    },  # BYOL on CIFAR, Momentum² Teacher, Spatial Ensemble: 0.99 -> 1
    {"momentum_schedule": "constant", "student_share": 0.001},  # MoCo, EMAN, FixMatch: 0.999
    {"momentum_schedule": "cosine", "student_share": 0.032},  # Momentum² Teacher on STL-10
)


def suggest(trial: Trial) -> dict[str, Any]:
    """teacher.momentum: kind, and base from 0.7 to 0.9995; a cosine ends at 1."""
    kind = trial.suggest_categorical("momentum_schedule", ["cosine", "constant"])
    base = 1 - trial.suggest_float("student_share", 5e-4, 0.3, log=True)
    return {"teacher.momentum.kind": kind, "teacher.momentum.base": base, "teacher.momentum.final": 1.0}
