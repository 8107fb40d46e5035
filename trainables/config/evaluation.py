"""How a trial is judged: the section `evaluation` of a TrialConfig, with a section for each protocol that has options.

Needs no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, create_model

from trainables.config import discovery
from trainables.config.base import ProtocolOptions, Trial
from trainables.config.errors import UserError, nearest
from trainables.config.sections import Count, Epochs, Section

PROTOCOLS = discovery.classes("evaluation.protocols", ProtocolOptions)
METRICS = {metric: name for name, kind in PROTOCOLS.items() for metric in kind.METRICS}
"""The protocol of each metric."""


def known(names: Iterable[str]) -> tuple[str, ...]:
    """Returns the names, each once. Raises ValueError where there is no such protocol."""
    names = tuple(dict.fromkeys(names))
    for name in names:
        if name not in PROTOCOLS:
            raise ValueError(f"no protocol is named '{name}'{nearest(name, PROTOCOLS)}")
    return names


def with_recipe(nested: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a trial's nested values without the options of protocols for which `changes` sets another `recipe`.

    The options of that recipe take their place.
    """
    evaluation = {**nested.get("evaluation", {})}
    for name in PROTOCOLS:
        if f"evaluation.{name}.recipe" in changes:
            evaluation.pop(name, None)
    return {**nested, "evaluation": evaluation}


def require_fit(names: Iterable[str], trial: Trial) -> None:
    """Raises UserError where a trial cannot be scored by one of the named protocols."""
    for name in names:
        if reason := trial.evaluation.protocol(name).unfit(trial):
            raise UserError(f"protocol {name}: {reason}")


class Common(Section):
    """How a trial is judged on its validation split."""

    network: Literal["student", "teacher"] = "student"
    """The network that is scored."""
    before_feature_norm: bool = False
    """Whether features are taken before the encoder's feature_norm, or after it."""
    every_epochs: Epochs = 1
    """How often a trial is scored, in epochs."""
    batch_size: Count = 256
    """Images of a forward pass that computes features."""
    protocols: Annotated[
        tuple[str, ...],
        BeforeValidator(lambda given: (given,) if isinstance(given, str) else given),
        AfterValidator(known),
        Field(min_length=1, json_schema_extra={"enum": list(PROTOCOLS)}),
    ] = ("knn",)
    """The protocols that score a trial: one, or a list."""

    def protocol(self, name: str) -> ProtocolOptions:
        """Returns a protocol with its options."""
        return getattr(self, name) if PROTOCOLS[name].model_fields else PROTOCOLS[name]()

    def unfit(self, trial: Trial) -> str | None:
        """Returns why the trial cannot be scored by one of `protocols`; None where it can."""
        reasons = ((name, self.protocol(name).unfit(trial)) for name in self.protocols)
        return next((f"{name} {reason}" for name, reason in reasons if reason), None)


if TYPE_CHECKING:
    Evaluation = Common
else:
    _own = {name: (kind, kind()) for name, kind in PROTOCOLS.items() if kind.model_fields}
    Evaluation = create_model("Evaluation", __base__=Common, __doc__=Common.__doc__, **_own)
