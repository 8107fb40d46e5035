"""Whose batch-norm statistics the teacher uses, and how fast Momentum BN forgets.

alpha_base: Momentum² Teacher, Tables 6 and 7.

For students whose norms have batch statistics. With `encoder.norm` layer, group or none the teacher has the student's
norm, so there is nothing to choose, and trials with any other are refused.
"""

from typing import Any

from search_spaces import Known, Trial

KNOWN_GOOD: Known = (
    {"teacher_norm": "batch"},
    {"teacher_norm": "momentum", "alpha_schedule": "cosine", "alpha_base": 1.0},  # Momentum² Teacher
    {"teacher_norm": "momentum", "alpha_schedule": "constant", "alpha_base": 0.064},  # its MoCo setting
    {"teacher_norm": "eman"},  # EMAN
    {"teacher_norm": "shuffle"},  # MoCo
    {"teacher_norm": "sync"},  # BYOL, Spatial Ensemble
)


def suggest(trial: Trial) -> dict[str, Any]:
    """teacher.norm: kind, and for Momentum BN alpha's schedule and base; a cosine ends at 0."""
    kind = trial.suggest_categorical("teacher_norm", ["batch", "sync", "shuffle", "momentum", "eman"])
    if kind != "momentum":
        return {"teacher.norm.kind": kind}
    schedule = trial.suggest_categorical("alpha_schedule", ["cosine", "constant"])
    base = trial.suggest_float("alpha_base", 0.01, 1.0, log=True)
    return {
        "teacher.norm.kind": kind,
        "teacher.norm.alpha.kind": schedule,
        "teacher.norm.alpha.base": base,
        "teacher.norm.alpha.final": 0.0,
    }
