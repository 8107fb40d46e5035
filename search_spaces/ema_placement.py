"""Which parts of the encoder have an averaged teacher copy (the placement paper's Fig. 4 and Table 3)."""

from typing import Any

from search_spaces import Known, Trial

KNOWN_GOOD: Known = ({"placement": "whole"}, {"placement": "projector"}, {"placement": "backbone"})


def suggest(trial: Trial) -> dict[str, Any]:
    """teacher.placement: the whole encoder, its backbone, or its projector."""
    return {"teacher.placement": trial.suggest_categorical("placement", ["whole", "backbone", "projector"])}
