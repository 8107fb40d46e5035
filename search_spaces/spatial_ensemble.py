"""Whether only random parts of the teacher are updated, and the preserving probability p (Spatial Ensemble, Fig. 4 and Table 4)."""

from typing import Any

from search_spaces import Known, Trial

KNOWN_GOOD: Known = (
    {"smoothing": "tma"},
    {"smoothing": "sts", "sts_p": 0.7},  # BYOL
    {"smoothing": "sts", "sts_p": 0.5},  # MoCo v2, FixMatch
    {"smoothing": "se", "se_updated": 0.001},  # Fig. 3: p = 0.999 without temporal smoothing
)


def suggest(trial: Trial) -> dict[str, Any]:
    """teacher.smoothing: kind and p. Without temporal smoothing ("se") p takes the part of the momentum, so it is searched near 1."""
    kind = trial.suggest_categorical("smoothing", ["tma", "sts", "se"])
    if kind == "sts":
        return {"teacher.smoothing.kind": kind, "teacher.smoothing.p": trial.suggest_float("sts_p", 0.1, 0.95)}
    if kind == "se":
        return {"teacher.smoothing.kind": kind, "teacher.smoothing.p": 1 - trial.suggest_float("se_updated", 5e-4, 0.3, log=True)}
    return {"teacher.smoothing.kind": kind}
