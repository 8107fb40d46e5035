"""ASHA against its oracle: Ray's AsyncHyperBandScheduler gives the same stops on 1,000 random sequences."""

import math
import random
from types import SimpleNamespace
from typing import Any

import pytest

from tuner.plan import spec as specs
from tuner.search.stoppers.asha import Asha, Rung
from tuner.search.stoppers.base import make
from tuner.search.stoppers.none import Never

SEQUENCES = 1000
NO_CONTROLLER: Any = None


def search(epochs: int = 8, metric: str = "knn_top1", **stopping: object) -> specs.SearchSpec:
    return specs.parse({"trial": {"train": {"epochs": epochs}}, "objective": {"metric": metric}, "stopping": stopping})


def sequence(rng: random.Random, epochs: int) -> list[tuple[str, int, float]]:
    """Epochs of some trials, interleaved: with ties, NaN, gaps, and scores that improve or not."""
    scores = [round(rng.random(), 1) for _ in range(4)] if rng.random() < 0.4 else None
    curves = {}
    for number in range(rng.randint(2, 8)):
        reported = [epoch for epoch in range(1, epochs + 1) if rng.random() < 0.85]
        if rng.random() < 0.2:  # this trial was lost
            reported = reported[: rng.randint(0, len(reported))]
        curves[f"{number:04d}"] = reported
    events = []
    while any(curves.values()):
        key = rng.choice([key for key, reported in curves.items() if reported])
        score = rng.choice(scores) if scores else rng.gauss(0.0, 1.0)
        events.append((key, curves[key].pop(0), math.nan if rng.random() < 0.05 else score))
    return events


def rays(spec: specs.SearchSpec) -> Any:
    from ray.tune.schedulers import AsyncHyperBandScheduler

    return AsyncHyperBandScheduler(
        time_attr="epoch",
        metric=spec.objective.metric,
        mode=spec.objective.mode,
        max_t=spec.trial.train.epochs,
        grace_period=min(spec.stopping.grace_epochs, spec.trial.train.epochs),
        reduction_factor=spec.stopping.reduction,
    )


def stops_of_ray(spec: specs.SearchSpec, events: list[tuple[str, int, float]]) -> list[tuple[str, int]]:
    """The trials that Ray stops, each with its epoch. What follows a stop is not told."""
    oracle, stand_ins, stops = rays(spec), {}, []
    for key, epoch, score in events:
        if any(key == stopped for stopped, _ in stops):
            continue
        if key not in stand_ins:
            stand_ins[key] = SimpleNamespace(trial_id=key)  # all that ASHA looks at
            oracle.on_trial_add(NO_CONTROLLER, stand_ins[key])
        result = {"epoch": epoch, spec.objective.metric: score}
        if epoch >= spec.trial.train.epochs:
            oracle.on_trial_complete(NO_CONTROLLER, stand_ins[key], result)
        elif oracle.on_trial_result(NO_CONTROLLER, stand_ins[key], result) == "STOP":
            stops.append((key, epoch))
    return stops


def our_stops(spec: specs.SearchSpec, events: list[tuple[str, int, float]]) -> list[tuple[str, int]]:
    stopper, stops = Asha(spec), []
    sign = 1 if spec.objective.mode == "max" else -1
    for key, epoch, score in events:
        if any(key == stopped for stopped, _ in stops):
            continue
        if epoch >= spec.trial.train.epochs:
            stopper.end(key, epoch, sign * score)
        elif stopper.hear(key, epoch, sign * score) == "stop":
            stops.append((key, epoch))
    return stops


def test_the_same_stops_as_rays_scheduler() -> None:
    stopping, seen = 0, set()
    for seed in range(SEQUENCES):
        rng = random.Random(seed)
        epochs, grace, reduction = rng.randint(1, 30), rng.randint(1, 6), rng.choice([2, 3, 4, 5, 7])
        spec = search(epochs, rng.choice(["knn_top1", "loss"]), kind="asha", grace_epochs=grace, reduction=reduction)
        events = sequence(rng, epochs)
        expected = stops_of_ray(spec, events)
        assert our_stops(spec, events) == expected, seed
        stopping += bool(expected)
        seen.add((spec.objective.mode, grace, reduction))
    assert stopping >= 0.3 * SEQUENCES
    assert {mode for mode, _, _ in seen} == {"max", "min"} and len(seen) > 50


@pytest.mark.parametrize("share", [0.0, 1 / 2, 2 / 3, 3 / 4, 0.9, 1.0])
def test_a_cutoff_is_numpys_percentile_bit_for_bit(share: float) -> None:
    import numpy

    rng = random.Random(7)
    for count in range(1, 40):
        rung = Rung(1)
        scores = [rng.choice([rng.random(), 0.5]) for _ in range(count)]
        for number, score in enumerate(scores):
            rung.enter(str(number), score)
        assert rung.cutoff(share * 100 / 100) == numpy.percentile(scores, share * 100)


def test_a_rung_without_scores_stops_nothing() -> None:
    rung = Rung(1)
    rung.enter("0000", math.nan)
    assert rung.cutoff(0.5) is None and rung.keys == {"0000"}


def test_stoppers_are_found_by_name() -> None:
    assert isinstance(make(search(kind="asha")), Asha)
    never = make(search(kind="none"))
    assert isinstance(never, Never) and never.hear("0000", 1, -math.inf) == "continue"
