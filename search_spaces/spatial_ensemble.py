"""Whether only random units of the teacher are updated, which units, and the preserving probability p.

Spatial Ensemble, Fig. 4 and Table 4.
"""

from typing import Any

from search_spaces import Known, Trial

KNOWN_GOOD: Known = (
    {"smoothing": "tma"},
    {"smoothing": "sts", "sts_p": 0.7, "granularity": "layer"},  # BYOL
    {"smoothing": "sts", "sts_p": 0.5, "granularity": "layer"},  # MoCo v2, FixMatch
    {"smoothing": "se", "se_updated": 0.001, "granularity": "layer"},  # Fig. 3: p = 0.999 without temporal smoothing
)


def suggest(trial: Trial) -> dict[str, Any]:
    """teacher.smoothing: kind, p and granularity.

    Without temporal smoothing ("se") p takes the part of the momentum, so it is searched near 1.
    """
    kind = trial.suggest_categorical("smoothing", ["tma", "sts", "se"])
    if kind == "tma":
        return {"teacher.smoothing.kind": kind}
    p = (
        trial.suggest_float("sts_p", 0.1, 0.95)
        if kind == "sts"
        else 1 - trial.suggest_float("se_updated", 5e-4, 0.3, log=True)
    )
    granularity = trial.suggest_categorical("granularity", ["layer", "channel", "neuron"])
    return {"teacher.smoothing.kind": kind, "teacher.smoothing.p": p, "teacher.smoothing.granularity": granularity}
