"""ASHA: asynchronous successive halving (Li et al. 2020), with rungs as data."""

import bisect
import math
from dataclasses import dataclass, field

from tuner.plan.spec import SearchSpec
from tuner.search.stoppers.base import Stopper, Verdict


@dataclass
class Rung:
    """A milestone, and the scores of the trials that have reached it.

    Attributes:
        epoch: the first epoch after which a trial is judged here.
        keys: of the trials that were judged here.
        scores: of these trials, in ascending order, without NaN.
    """

    epoch: float
    keys: set[str] = field(default_factory=set)
    scores: list[float] = field(default_factory=list)

    def enter(self, key: str, score: float) -> None:
        """Adds the score of a trial."""
        self.keys.add(key)
        if not math.isnan(score):
            bisect.insort(self.scores, score)

    def cutoff(self, share: float) -> float | None:
        """Returns the score below which `share` of the scores lie, interpolated linearly; None if there are none."""
        if not self.scores:
            return None
        place = (len(self.scores) - 1) * share
        below = math.floor(place)
        low, high = self.scores[below], self.scores[min(below + 1, len(self.scores) - 1)]
        part = place - below
        # the two forms of the line meet numpy's percentile to the last bit
        return low + (high - low) * part if part < 0.5 else high - (high - low) * (1 - part)


class Asha(Stopper):
    """At each rung the best 1/reduction of the trials that have reached it go on. The first one always goes on.

    Rungs lie at grace_epochs x reduction^k. A trial is judged once at each rung, by the first epoch that it reports at
    or after the rung. An epoch is judged at the highest rung that it has reached and that has not judged the trial.
    """

    def __init__(self, spec: SearchSpec):
        super().__init__(spec)
        longest, reduction = spec.trial.train.epochs, spec.stopping.reduction
        grace = min(spec.stopping.grace_epochs, longest)
        count = int(math.log(longest / grace) / math.log(reduction) + 1)
        self.rungs = [Rung(grace * reduction**k) for k in reversed(range(count))]
        self.share = (1 - 1 / reduction) * 100 / 100  # through percent, as numpy's percentile takes it

    def hear(self, key: str, epoch: int, score: float) -> Verdict:
        for rung in self.rungs:
            if epoch < rung.epoch or key in rung.keys:
                continue
            cutoff = rung.cutoff(self.share)
            rung.enter(key, score)
            return "stop" if cutoff is not None and score < cutoff else "continue"
        return "continue"
