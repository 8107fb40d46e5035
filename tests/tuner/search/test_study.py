"""The study: proposals are a function of seed, number and what was told; every trial is asked once and told once."""

import math
from pathlib import Path

import pytest
from optuna.trial import TrialState

from trainables.config.errors import UserError
from tuner.plan import space as spaces
from tuner.plan import spec as specs
from tuner.plan.resources import Resources
from tuner.search.core import Core
from tuner.search.events import Continue, EpochEnded, Stop, TrialEnded, WorkWanted
from tuner.search.study import Study, key_of

TEACHER = spaces.load("teacher")


def search(**changes: object) -> specs.SearchSpec:
    return specs.parse(
        {"trials": 14, "seed": 3, "sampler": {"startup_trials": 4}, "trial": {"train": {"epochs": 3}}, **changes}
    )


def score(values: dict, epoch: int) -> float:
    """Stands for a training: a number that depends on the proposal."""
    return math.cos(7 * values.get("teacher.momentum.base", 0.3)) + 0.01 * epoch


def run_to_the_end(study: Study, die_after: int | None = None) -> None:
    """Runs trials one at a time; after `die_after` observed epochs the driver is gone."""
    heard = 0
    for proposal in [*study.interrupted(), *iter(study.ask, None)]:
        for epoch in (1, 2, 3):
            metrics = {"epoch": epoch, "knn_top1": score(proposal.values, epoch)}
            study.observe(proposal.key, metrics)
            heard += 1
            if heard == die_after:
                return
        study.tell(proposal.key, metrics, None, {})


def record(study: Study) -> list:
    return [
        (t.number, t.params, t.user_attrs["values"], t.state, t.values, t.intermediate_values) for t in study.trials()
    ]


@pytest.mark.parametrize("deaths", [[1], [5, 7], [20, 1, 1, 9]])
def test_interrupted_search_proposes_and_ends_as_an_uninterrupted_one(tmp_path: Path, deaths: list[int]) -> None:
    whole = Study(tmp_path / "whole", search(), TEACHER)
    run_to_the_end(whole)
    for death in deaths:
        run_to_the_end(Study(tmp_path / "cut", search(), TEACHER), death)
    cut = Study(tmp_path / "cut", search(), TEACHER)
    run_to_the_end(cut)
    assert record(cut) == record(whole)
    assert [t.number for t in cut.trials()] == list(range(14))


def test_another_seed_proposes_other_teachers(tmp_path: Path) -> None:
    studies = [Study(tmp_path / str(seed), search(seed=seed), TEACHER) for seed in (1, 2)]
    for study in studies:
        run_to_the_end(study)
    known = len(TEACHER.known_good)
    assert record(studies[0])[:known] == record(studies[1])[:known]
    assert record(studies[0])[known:] != record(studies[1])[known:]


def test_known_good_settings_come_first(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", search(), TEACHER)
    for known in TEACHER.known_good:
        study.ask()
        assert study.trials()[-1].params == dict(known)


def test_asking_is_one_line_of_the_journal(tmp_path: Path) -> None:
    """So that a driver which dies while it asks leaves a whole trial, or none."""
    journal = tmp_path / "journal"
    study = Study(journal, search(), TEACHER)
    before = journal.read_bytes().count(b"\n")
    study.ask()
    assert journal.read_bytes().count(b"\n") == before + 1


def test_a_line_cut_short_by_a_kill_is_mended(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    study = Study(journal, search(), TEACHER)
    study.ask()
    expected = record(study)
    with journal.open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    (tmp_path / "journal.lock").symlink_to(journal)
    again = Study(journal, search(), TEACHER)
    assert record(again) == expected
    assert again.ask() is not None
    assert len(Study(journal, search(), TEACHER, reading=True).trials()) == 2


def test_a_trial_is_told_once(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", search(), TEACHER)
    key = study.ask().key
    study.tell(key, {"epoch": 3, "knn_top1": 0.5}, None, {})
    study.tell(key, {"epoch": 3, "knn_top1": 0.9}, "an error that came late", {})
    trial = study.trials()[0]
    assert (trial.state, trial.values, trial.user_attrs["error"]) == (TrialState.COMPLETE, [0.5], None)


@pytest.mark.parametrize(
    ("metrics", "error", "state"),
    [
        ({"epoch": 3, "knn_top1": 0.5}, None, TrialState.COMPLETE),
        ({"epoch": 2, "knn_top1": 0.5}, None, TrialState.PRUNED),
        ({"epoch": 2, "knn_top1": 0.5}, "ValueError: x", TrialState.FAIL),
        ({"epoch": 3, "knn_top1": float("nan")}, None, TrialState.FAIL),
        ({}, "RuntimeError: died at once", TrialState.FAIL),
    ],
)
def test_how_a_trial_ended(tmp_path: Path, metrics: dict, error: str | None, state: TrialState) -> None:
    study = Study(tmp_path / "journal", search(), TEACHER)
    study.tell(study.ask().key, metrics, error, {"slot": 0})
    trial = study.trials()[0]
    assert (trial.state, trial.user_attrs["error"], trial.user_attrs["slot"]) == (state, error, 0)


def test_best_are_complete_trials_only(tmp_path: Path) -> None:
    study = Study(tmp_path / "journal", search(), TEACHER)
    for epoch, value in ((3, 0.4), (2, 0.9), (3, 0.6), (3, 0.5)):
        study.tell(study.ask().key, {"epoch": epoch, "knn_top1": value}, None, {})
    assert [key_of(t) for t in study.best(2)] == ["0002", "0003"]


def test_asha_is_rebuilt_from_the_journal(tmp_path: Path) -> None:
    """A new trial is judged against the curves of trials that another session has told, also without records."""
    spec = search(stopping={"grace_epochs": 1, "reduction": 2})
    study = Study(tmp_path / "journal", spec, TEACHER)
    for value in (0.5, 0.6, 0.7):
        key = study.ask().key
        study.observe(key, {"epoch": 1, "knn_top1": value})
        study.tell(key, {"epoch": 1, "knn_top1": value}, None, {})
    decisions = {}
    for value in (0.1, 0.8):
        core = Core(Study(tmp_path / "journal", spec, TEACHER))
        start = core.hear(WorkWanted(1, 1))
        decisions[value] = core.hear(EpochEnded(start.proposal.key, {"epoch": 1, "knn_top1": value}))
        core.hear(TrialEnded(start.proposal.key, {}, "not told a score", {}))
    assert [type(decision) for decision in decisions.values()] == [Stop, Continue]
    empty = Core(Study(tmp_path / "empty", spec, TEACHER))
    empty.hear(WorkWanted(1, 1))
    assert empty.hear(EpochEnded("0000", {"epoch": 1, "knn_top1": 0.1})) == Continue("0000")


def test_a_space_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text("def suggest(trial):\n    return {'optim.lr': trial.suggest_float('lr', 0.01, 0.1, log=True)}\n")
    space = spaces.load(f"{file}:suggest")
    spaces.rehearse(space, search().trial, Resources())
    study = Study(tmp_path / "journal", search(), space)
    run_to_the_end(study)
    rates = [t.user_attrs["values"]["optim.lr"] for t in study.trials()]
    assert len(set(rates)) == 14
    assert all(0.01 <= rate <= 0.1 for rate in rates)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("return {'teacher.momentun.base': 0.9}", ["teacher.momentun.base", "did you mean 'teacher.momentum.base'"]),
        ("return {'teacher.smoothing.p': 1.5}", ["teacher.smoothing.p.base = 1.5", "less than or equal to 1"]),
        ("return [1]", ["must return a dict", "list"]),
        ("return {'optim.lr': 1 / 0}", ["raised ZeroDivisionError: division by zero (", "mine.py, line 2)"]),
        ("return {'train': {'epochs': 1}}", ["train: is a section; give dotted keys, such as train.epochs"]),
        (
            "return {'teacher': {'placement': 'projector'}}",
            ["teacher: is a section; give dotted keys, such as teacher.placement"],
        ),
        (
            "import numpy\n    return {'optim.lr': numpy.float32(0.1)}",
            ["optim.lr: must be a plain number, ", "not numpy.float32"],
        ),
        ("return {1: 2}", ["1: unknown key"]),
        ("return {'train.epochs': 3}", ["train.epochs", "belongs to the search"]),
        ("return {'data.root': 'x'}", ["data.root", "belongs to the search"]),
        ("return {'train.checkpoint_minutes': 2.0}", ["train.checkpoint_minutes", "belongs to the search"]),
        (
            "trial.suggest_float('a', 0, 1)\n    return {}\nKNOWN_GOOD = [{'a': 2}]",
            ["KNOWN_GOOD[0]", "out of the range"],
        ),
        (
            "trial.suggest_float('a', 0, 1)\n    return {}\nKNOWN_GOOD = [{'a': 1, 'b': 2}]",
            ["KNOWN_GOOD[0] names b", "not asked for"],
        ),
        ("trial.suggest_float('a', 0, 1)\n    return {}\nKNOWN_GOOD = [{}]", ["KNOWN_GOOD[0]", "raised ValueError"]),
        (
            "return {'train.shard_size': trial.suggest_categorical('s', [32, 64])}",
            ["resources.workers = 2", "1 shards"],
        ),
    ],
)
def test_a_space_at_fault_is_found_in_rehearsal(tmp_path: Path, body: str, words: list[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(f"def suggest(trial):\n    {body}\n")
    with pytest.raises(UserError) as error:
        spaces.rehearse(spaces.load(str(file)), search().trial, Resources(workers=2))
    for word in words:
        assert word in str(error.value)


SOMETIMES = """
def suggest(trial):
    rate = trial.suggest_float("lr", 0.01, 0.1)
    if trial.number >= {number}:
        return {body}
    return {{"optim.lr": rate}}
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("{'optim.lr': 1 / 0}", ["raised ZeroDivisionError: division by zero (", "mine.py, line 5)"]),
        ("{'optim.lr': {1, 2}}", ["optim.lr: must be a plain number, text or list, not set"]),
        ("{'optim.lr': -1}", ["optim.lr.base = -1", "greater than"]),
        ("[rate]", ["must return a dict"]),
        ("__import__('time').sleep(30)", ["has proposed no trial within 2 seconds; it was at ", "mine.py, line 5"]),
    ],
)
def test_a_space_at_fault_in_the_middle_of_a_search(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: list[str]
) -> None:
    """It is named, with its line; nothing enters the journal, and a resume is not what is advised."""
    monkeypatch.setattr(spaces, "PATIENCE", 2.0)
    (tmp_path / "mine.py").write_text(SOMETIMES.format(number=2, body=body))
    study = Study(tmp_path / "journal", search(sampler={"kind": "random"}), spaces.load(f"{tmp_path / 'mine.py'}"))
    study.ask()
    study.tell(study.ask().key, {"epoch": 3, "knn_top1": 0.5}, None, {})
    before = (tmp_path / "journal").read_bytes()
    for _ in range(2):
        with pytest.raises(UserError) as error:
            study.ask()
        for word in [*words, "mine.py", "trial 0002", "launch it as another run"]:
            assert word in str(error.value)
    assert (tmp_path / "journal").read_bytes() == before
    assert len(study.trials()) == 2


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (
            "import time\ndef suggest(trial):\n    time.sleep(60)\n",
            ["has proposed no trial within 0.5 seconds", "mine.py, line 3"],
        ),
        (
            "def suggest(trial):\n    while True:\n        try:\n            pass\n"
            "        except Exception:\n            pass\n",
            ["mine.py, line "],
        ),
        (
            "KNOWN_GOOD = [{}]\ndef suggest(trial):\n    while True: pass\n",
            ["KNOWN_GOOD[0] has proposed no trial within"],
        ),
        ("while True: pass\n", ["has not been imported within 0.5 seconds", "mine.py, line 1"]),
    ],
)
def test_a_space_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: list[str]) -> None:
    monkeypatch.setattr(spaces, "PATIENCE", 0.5)
    (tmp_path / "mine.py").write_text(code)
    with pytest.raises(UserError) as error:
        spaces.rehearse(spaces.load(str(tmp_path / "mine.py")), search().trial, Resources())
    for word in words:
        assert word in str(error.value)
