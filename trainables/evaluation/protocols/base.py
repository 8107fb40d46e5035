"""One file a protocol: a class with its options, the metrics that it gives, and how it measures them.

Configurations are validated with these files, so torch is imported where it is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import field_validator, model_validator

from trainables.config.errors import nearest
from trainables.config.sections import Section
from trainables.config.settings import merged

if TYPE_CHECKING:
    from trainables.config.trial import TrialConfig
    from trainables.evaluation.subject import Subject

Scores = dict[str, float]
Output = Literal["features", "projections"]  # of the backbone, or of the projector behind it


class Protocol(Section):
    """Options of a protocol, and what it does with them. Protocols that learn from labels learn from those of `data.labels`.

    METRICS: that it gives in every trial, and whether more ("max") or less ("min") of one is better. It may give others besides, with a
    "/" in their names.
    LABELS: whether its scores need labels, of two classes at least.
    USES: other protocols whose options count too.
    RECIPES: options of papers, by the name that the option `recipe` may have; what is set beside it counts above them.
    """

    METRICS: ClassVar[dict[str, Literal["max", "min"]]] = {}
    LABELS: ClassVar[bool] = True
    USES: ClassVar[tuple[str, ...]] = ()
    RECIPES: ClassVar[dict[str, dict[str, Any]]] = {}

    @field_validator("recipe", check_fields=False)
    @classmethod
    def _known_recipe(cls, name: str | None) -> str | None:
        if name is not None and name not in cls.RECIPES:
            raise ValueError(f"no such recipe{nearest(name, cls.RECIPES)}")
        return name

    @model_validator(mode="before")
    @classmethod
    def _follow_recipe(cls, given: Any) -> Any:
        recipe = given.get("recipe") if isinstance(given, Mapping) else None
        return merged(cls.RECIPES[recipe], given, cls) if isinstance(recipe, str) and recipe in cls.RECIPES else given

    def unfit(self, trial: TrialConfig) -> str | None:
        """Why a trial cannot be judged in this way; None where it can."""
        return None

    def measure(self, subject: Subject) -> Scores:
        """Scores of a network. Collective; the same on every worker, and for any number of them."""
        raise NotImplementedError
