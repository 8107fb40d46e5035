"""The whole teacher as one conditional space: smoothing, momentum, norm and placement.

For students whose norms have batch statistics, as it chooses the teacher's norm too (see `momentum_bn`). With
`encoder.norm` layer, group or none a search with this space is refused; `momentum`, `spatial_ensemble` and
`ema_placement` serve there.
"""

from typing import Any

from search_spaces import Known, Trial, ema_placement, momentum, momentum_bn, spatial_ensemble

_DEFAULT = {
    "smoothing": "tma",
    "momentum_schedule": "cosine",
    "student_share": 0.01,
    "teacher_norm": "batch",
    "placement": "whole",
}
KNOWN_GOOD: Known = (
    _DEFAULT,  # BYOL
    {**_DEFAULT, "teacher_norm": "momentum", "alpha_schedule": "cosine", "alpha_base": 1.0},  # Momentum² Teacher
    {**_DEFAULT, "smoothing": "sts", "sts_p": 0.7, "granularity": "layer"},  # Spatial-temporal smoothing
    {**_DEFAULT, "teacher_norm": "eman"},  # EMAN
    {**_DEFAULT, "placement": "projector"},  # projector-only EMA
)


def suggest(trial: Trial) -> dict[str, Any]:
    """All keys of the teacher; momentum is left out where a Spatial Ensemble takes its part."""
    values = spatial_ensemble.suggest(trial)
    if values["teacher.smoothing.kind"] != "se":
        values |= momentum.suggest(trial)
    return values | momentum_bn.suggest(trial) | ema_placement.suggest(trial)
