"""Who proposes trials, and who stops them: the names of files in tuner/search, with their options."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from trainables.config.discovery import names_in
from trainables.config.sections import Epochs, Section

MOST_TRIALS = 10_000
_SEARCH = Path(__file__).parents[1] / "search"

if TYPE_CHECKING:
    StopperName = str
    SamplerName = str
else:
    StopperName = Literal[tuple(names_in(_SEARCH / "stoppers"))]
    SamplerName = Literal[tuple(names_in(_SEARCH / "samplers"))]


class Stopping(Section):
    """ASHA: from `grace_epochs` on, at each rung the best 1/reduction of the trials go on.

    "none" runs every trial to its end.
    """

    SHORT: ClassVar[str] = "kind"

    kind: StopperName = "asha"
    """Who stops trials early; none runs every trial to its end."""
    grace_epochs: Epochs = 2
    """Epochs that no trial is stopped before."""
    reduction: Annotated[int, Field(ge=2, le=1000)] = 3
    """At each rung the best 1/reduction of the trials go on."""


class Sampler(Section):
    """Who proposes. TPE draws at random until `startup_trials` have ended."""

    SHORT: ClassVar[str] = "kind"

    kind: SamplerName = "tpe"
    """Who proposes."""
    startup_trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] = 8
    """Trials that have to end before TPE does more than draw at random."""
