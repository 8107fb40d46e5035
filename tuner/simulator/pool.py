"""A search that chooses among recorded trials: every proposal has a curve."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from trainables.config.errors import UserError
from tuner.plan.space import Space
from tuner.plan.spec import SearchSpec
from tuner.search.samplers import base as samplers
from tuner.search.study import SamplerOf, Study
from tuner.simulator.curves import Point


class PoolStudy(Study):
    """A study in memory whose proposals are recorded trials, each of them at most once.

    The sampler draws as always. The trial that is asked is then the nearest recorded one that is left: the one that
    differs in the fewest choices, of these the one that is nearest in the numbers, of these the one recorded first. A
    parameter that only one of both has counts as a choice that differs. Numbers are compared in units of their range,
    on a log scale where the space has one. The study knows the recorded trial, not the draw.

    Args:
        spec: of the search.
        space: what to ask.
        points: recorded trials of that space, with their `params`.
        sampler_of: as a study's.

    Raises:
        UserError: no recorded trial says what its space suggested.
    """

    def __init__(self, spec: SearchSpec, space: Space, points: Sequence[Point], sampler_of: SamplerOf = samplers.make):
        super().__init__(None, spec, space, sampler_of=sampler_of)
        self._left = [point for point in points if point.params is not None]
        if not self._left:
            raise UserError("a search in a pool needs the suggested values of the recorded trials, and none has them")

    @property
    def unasked(self) -> int:
        return min(len(self._left), super().unasked)

    def _fixed(self, number: int) -> Mapping[str, Any] | None:
        assert self.space is not None
        with self._store.draft(self._sampler_of(self.spec, number), super()._fixed(number)) as draft:
            self.space.propose(draft.trial, self.spec.trial)
            params, distributions = draft.trial.params, draft.trial.distributions
        nearest = min(self._left, key=lambda point: distance(params, point.params or {}, distributions))
        self._left.remove(nearest)
        return nearest.params


def distance(
    drawn: Mapping[str, Any], other: Mapping[str, Any], distributions: Mapping[str, BaseDistribution]
) -> tuple[int, float]:
    """How many choices of two points differ, and how far their numbers lie apart.

    Args:
        drawn: suggested values by name.
        other: of the other point.
        distributions: of the names in `drawn`.
    """
    differing, square = len(drawn.keys() ^ other.keys()), 0.0
    for name in sorted(drawn.keys() & other.keys()):
        kind = distributions[name]
        if isinstance(kind, FloatDistribution | IntDistribution):
            square += (_place(drawn[name], kind) - _place(other[name], kind)) ** 2
        else:
            differing += drawn[name] != other[name]
    return differing, math.sqrt(square)


def _place(value: float, kind: FloatDistribution | IntDistribution) -> float:
    """Where a number lies within its range, from 0 to 1."""
    low, high, at = (math.log(x) if kind.log else float(x) for x in (kind.low, kind.high, value))
    return (at - low) / (high - low) if high > low else 0.0
