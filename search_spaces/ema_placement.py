"""Which parts of the encoder have an averaged teacher copy (the placement paper's Fig. 4 and Table 3)."""

from typing import Any

from search_spaces import Known, Trial

KNOWN_GOOD: Known = ({"placement": "whole"}, {"placement": "projector"}, {"placement": "backbone"})
NAMES = ("whole", "backbone", "projector", "last block and projector")


def suggest(trial: Trial) -> dict[str, Any]:
    """teacher.placement: the whole encoder, its backbone, its projector, or the end of both."""
    name = trial.suggest_categorical("placement", NAMES)
    return {"teacher.placement": ["block4", "projector"] if name == NAMES[-1] else name}
