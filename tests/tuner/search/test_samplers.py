"""Samplers: the proposals of earlier versions bit for bit, and each of Optuna's samplers on our store."""

import hashlib
import json
import math
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState

from trainables.config.errors import UserError
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.search.samplers import base as samplers
from tuner.search.study import SamplerOf, Study

TEACHER = spaces.load("teacher")
# by the version before the study had a mirror: the numbers in trials 5 to 14, and a digest of all values of all trials
PROPOSED = {
    0: (
        "0.1477336643337648 0.3421593357047889",
        "0.2490772457164695",
        "0.26095192752761653 0.07581993362012243",
        "0.07607725359217206 0.010282934333365653",
        "0.0005692627669087196",
        "0.0006584781908921349 0.11878498149434807",
        "0.07331209388238404 0.8441611299323519",
        "0.06400496130741981 0.5878698407680151",
        "0.27830611268420447",
        "0.06506475589476057 0.9473362671997427 0.29183691793002225",
        "f61e97d089b854a6",
    ),
    1: (
        "0.09717120440451325 0.8147589903781632",
        "0.18299646679746992",
        "0.0005701508356641766 0.12375352687836133 0.10882675436906701",
        "0.0010992860608714785 0.01962493159187623",
        "0.15387584424449843 0.8368697814876276 0.42865312000103867",
        "0.07515382554231498 0.01298878593925467",
        "0.044714242325869576 0.024091119421142906",
        "0.004700592675378089 0.010914414784068663",
        "0.06082074758998689",
        "0.035308303404364805 0.1082908160811843",
        "391876aee762284b",
    ),
    2: (
        "0.000933012154514196 0.9138327498305592",
        "0.1360748063781311 0.9304122522695791",
        "0.03443450023275211 0.01500088625488739",
        "0.000741600629579277",
        "0.0006862580266751153",
        "0.218669241180122 0.10513132312421392",
        "0.023910717344912777 0.938462956303191",
        "0.018088046820376676 0.9469283744177134",
        "0.04475914091896674 0.3594461518733808 0.05099949559960628",
        "0.04449055633310812 0.3456968807138607 0.028347511822223524",
        "96c874eb9b5aaee7",
    ),
}
NUMBERS = ("student_share", "se_updated", "sts_p", "alpha_base")
TWO = "def suggest(trial):\n    return {'optim.lr': trial.suggest_float('lr', 0.01, 0.1, log=True), "
TWO += "'optim.momentum': trial.suggest_float('momentum', 0.0, 0.9)}\n"


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


def search(**changes: object) -> specs.SearchSpec:
    return specs.parse(
        {"trials": 20, "seed": 0, "sampler": {"startup_trials": 4}, "trial": {"train": {"epochs": 3}}, **changes}
    )


def run_one(study: Study, last: int = 3) -> bool:
    """Asks and tells a trial; whether there was one to ask."""
    proposal = study.ask()
    if proposal is None:
        return False
    for epoch in range(1, last + 1):
        base = proposal.values.get("teacher.momentum.base", 0.3)
        metrics = {"epoch": epoch, "knn_top1": math.cos(7 * base) + 0.01 * epoch}
        study.observe(proposal.key, metrics)
    study.tell(proposal.key, metrics, None, {})
    return True


@pytest.mark.parametrize("seed", PROPOSED)
@pytest.mark.parametrize("journal", [True, False])
def test_proposals_are_those_of_the_version_before(tmp_path: Path, seed: int, journal: bool) -> None:
    study = Study(tmp_path / "journal" if journal else None, search(seed=seed), TEACHER)
    for number in range(14):
        run_one(study, 3 if number % 3 else 2)
    study.ask()
    params = [trial.params for trial in study.trials()]
    *rows, digest = PROPOSED[seed]
    assert [" ".join(repr(row[name]) for name in NUMBERS if name in row) for row in params[5:]] == rows
    assert hashlib.sha256(json.dumps(params, sort_keys=True).encode()).hexdigest()[:16] == digest


def optunas(spec: specs.SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    """Optuna's own TPE with the options of ours."""
    return optuna.samplers.TPESampler(
        seed=(spec.seed * 1_000_003 + number) % 2**32,
        n_startup_trials=spec.sampler.startup_trials,
        multivariate=True,
        group=True,
        constant_liar=True,
    )


@pytest.mark.parametrize("seed", range(4))
def test_our_tpe_draws_what_optunas_draws(seed: int) -> None:
    """With trials that run, fail, are stopped, or have equal scores."""
    spec, rng = search(trials=60, seed=seed), random.Random(seed)
    ours, theirs = Study(None, spec, TEACHER), Study(None, spec, TEACHER, sampler_of=optunas)
    running: list[str] = []
    for _ in range(60):
        proposals = [study.ask() for study in (ours, theirs)]
        assert proposals[0] == proposals[1]
        running.append(proposals[0].key)
        while len(running) > rng.randint(0, 4):
            key, epoch, score = running.pop(0), rng.randint(1, 3), round(rng.random(), 1)
            error = "RuntimeError: x" if rng.random() < 0.1 else None
            for study in (ours, theirs):
                study.observe(key, {"epoch": epoch, "knn_top1": score})
                study.tell(key, {"epoch": epoch, "knn_top1": score}, error, {})
    assert {trial.state for trial in ours.trials()} >= {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}


def reopening(tmp_path: Path, spec: specs.SearchSpec, space: spaces.Space, sampler_of: SamplerOf) -> Iterator[Study]:
    """A study that is opened anew for each trial."""
    while True:
        yield Study(tmp_path / "journal", spec, space, sampler_of=sampler_of)


def two(tmp_path: Path) -> spaces.Space:
    (tmp_path / "two.py").write_text(TWO)
    return spaces.load(str(tmp_path / "two.py"))


@pytest.mark.parametrize("reopened", [False, True])
def test_nsga_reaches_its_third_generation(tmp_path: Path, reopened: bool) -> None:
    """40 trials of 10: the generation of each is kept with it, so the next sampler knows its parents."""
    spec, space = search(trials=40), two(tmp_path)

    def nsga(spec: specs.SearchSpec, number: int) -> optuna.samplers.BaseSampler:
        return optuna.samplers.NSGAIISampler(population_size=10, seed=number)

    studies = reopening(tmp_path, spec, space, nsga)
    study = next(studies)
    for _ in range(40):
        assert run_one(study)
        study = next(studies) if reopened else study
    again = Study(tmp_path / "journal", spec, space, reading=True)
    generations = [
        value for trial in again.trials() for name, value in trial.system_attrs.items() if name.endswith(":generation")
    ]
    assert len(generations) == 40 and max(generations) == 3
    assert [generations.count(number) for number in range(4)] == [10] * 4


@pytest.mark.parametrize("reopened", [False, True])
def test_a_grid_ends_the_study_when_it_is_exhausted(tmp_path: Path, reopened: bool) -> None:
    spec, space = search(), two(tmp_path)
    grid = {"lr": [0.01, 0.1], "momentum": [0.0, 0.5, 0.9]}
    studies = reopening(tmp_path, spec, space, lambda spec, number: optuna.samplers.GridSampler(grid, seed=0))
    study, count = next(studies), 0
    while run_one(study):
        count += 1
        assert count <= 6
        study = next(studies) if reopened else study
    assert count == 6
    assert len({tuple(trial.params.values()) for trial in study.trials()}) == 6


def test_a_quasi_random_sampler_spreads_over_the_space(tmp_path: Path) -> None:
    spec = search(trials=17)
    study = Study(
        tmp_path / "journal",
        spec,
        two(tmp_path),
        sampler_of=lambda spec, number: optuna.samplers.QMCSampler(seed=1, scramble=True),
    )
    while run_one(study):
        pass
    halves = [trial.params["momentum"] < 0.45 for trial in study.trials()[1:]]  # the first one only tells the space
    assert halves.count(True) == 8


@pytest.mark.parametrize("reopened", [False, True])
def test_constraints_reach_tpe(tmp_path: Path, reopened: bool) -> None:
    """A constraint is computed when a trial ends, is kept in the journal, and keeps proposals from what breaks it."""
    space, high = two(tmp_path), []
    for sign in (1, -1):  # momentum is to be above 0.45, then below

        def broken(trial: optuna.trial.FrozenTrial, sign: int = sign) -> tuple[float]:
            return (sign * (0.45 - trial.params["momentum"]),)

        def constrained(spec: specs.SearchSpec, number: int) -> optuna.samplers.BaseSampler:
            return optuna.samplers.TPESampler(seed=number, n_startup_trials=5, constraints_func=broken)

        folder = tmp_path / str(sign)
        folder.mkdir()
        spec = search(trials=30)
        studies = reopening(folder, spec, space, constrained)
        study = next(studies)
        while run_one(study):
            study = next(studies) if reopened else study
        trials = Study(folder / "journal", spec, space, reading=True).trials()
        for trial in trials:
            assert tuple(trial.constraints.values()) == broken(trial)
        high.append(sum(trial.params["momentum"] >= 0.45 for trial in trials[10:]))
    assert high[0] >= high[1] + 8, "of 20 each"


class Noting(optuna.samplers.RandomSampler):
    """Notes something at the study and at the trial: before a trial is drawn, and after it has ended."""

    def before_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
        study._storage.set_study_system_attr(study._study_id, "noted:before", trial.number)
        study._storage.set_trial_system_attr(trial._trial_id, "noted:drawn", trial.number)

    def after_trial(self, study: optuna.Study, trial: optuna.trial.FrozenTrial, state: Any, values: Any) -> None:
        study._storage.set_study_system_attr(study._study_id, "noted:after", [trial.number, values])
        study._storage.set_trial_system_attr(trial._trial_id, "noted:ended", state.name)


def noting(spec: specs.SearchSpec, number: int) -> optuna.samplers.BaseSampler:
    return Noting(number)


def test_what_a_sampler_notes_is_kept_in_the_journal(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", search(), TEACHER, sampler_of=noting)
    run_one(study)
    run_one(study, 2)
    record = {"event": "start", "segment": 1, "width": 1}
    study.ask(lambda config: {"core:00000000": record})
    again = Study(tmp_path / "journal", search(), TEACHER, reading=True)
    for known in (study, again):
        attributes = [
            {name: value for name, value in trial.system_attrs.items() if name.startswith("noted:")}
            for trial in known.trials()
        ]
        assert attributes == [
            {"noted:drawn": 0, "noted:ended": "COMPLETE"},
            {"noted:drawn": 1, "noted:ended": "PRUNED"},
            {"noted:drawn": 2},
        ]
        assert known.trials()[2].system_attrs["core:00000000"] == record
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    noted = storage.get_study_system_attrs(0)
    assert noted["noted:before"] == 2 and noted["noted:after"][0] == 1


@pytest.mark.parametrize("sampler_of", [samplers.make, noting])
def test_a_space_that_raises_leaves_no_trace(
    tmp_path: Path, sampler_of: Callable[[specs.SearchSpec, int], optuna.samplers.BaseSampler]
) -> None:
    (tmp_path / "mine.py").write_text(
        "def suggest(trial):\n"
        "    rate = trial.suggest_float('lr', 0.01, 0.1)\n"
        "    if trial.number == 5:\n        raise ValueError('no')\n"
        "    return {'optim.lr': rate}\n"
    )
    study = Study(tmp_path / "journal", search(), spaces.load(str(tmp_path / "mine.py")), sampler_of=sampler_of)
    while len(study.trials()) < 5:
        run_one(study)
    before = (tmp_path / "journal").read_bytes()
    mirror = study._store._mirror
    noted = dict(mirror.get_study_system_attrs(study._store._id))
    for _ in range(2):
        with pytest.raises(UserError, match="trial 0005"):
            study.ask()
        assert [trial.number for trial in study.trials()] == [0, 1, 2, 3, 4]
        assert mirror.get_study_system_attrs(study._store._id) == noted
    assert (tmp_path / "journal").read_bytes() == before
