"""What a sampler file holds: a function `make` that returns a new Optuna sampler for a trial.

A new sampler for each trial leaves no stream of random numbers to be restored: a proposal is a function of the seed,
the trial's number and what was told before.
"""

import optuna

from trainables.config.errors import shown
from tuner.plan.spec import SearchSpec
from tuner.search.extensions import Extension

KEY = "sampler.kind"  # the setting that names a sampler
PACKAGE = "tuner.search.samplers"


def make(spec: SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """Returns the sampler of a search for its trial `number`.

    Raises:
        UserError: its file cannot be imported, has no function `make`, or `make` raises or returns no sampler.
    """
    extension = Extension(KEY, spec.sampler.kind, PACKAGE)
    function = getattr(extension.load(), "make", None)
    if not callable(function):
        raise extension.fault("has no function make(options, seed)")
    with extension.guarded("has a function make that raised"):
        sampler = function(spec.sampler, (spec.seed * 1_000_003 + number) % 2**32)
    if not isinstance(sampler, optuna.samplers.BaseSampler):
        raise extension.fault(f"has a function make that returned {shown(sampler)}, which is no sampler of Optuna")
    return sampler
