"""Runs that an earlier version left in the middle of a trial go on, with the numbers that it would have given."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.tuner.conftest import Tuner
from trainables.config import formats
from trainables.config import trial as c
from trainables.config.errors import UserError
from trainables.running import checkpoint
from trainables.running import fit as train
from tuner.plan import points, reading, space, spec
from tuner.runs.run import Run
from tuner.search.study import Proposal, Study

FIXTURES = Path(__file__).parents[2] / "fixtures" / "format_1"
every_run = pytest.mark.parametrize("name", ["lars", "sgd"])


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """The curves that are expected were trained on one thread; sums of more threads round otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def copied(name: str, folder: Path) -> Path:
    """A run of an earlier version, with the empty folders that Git does not keep."""
    run = Path(shutil.copytree(FIXTURES / name, folder / name))
    for part in ("tensorboard", "best", "logs", "ray"):
        (run / part).mkdir()
    return run


def opened(path: Path) -> tuple[Run, Study]:
    run = Run(path)
    wanted = reading.continued(run.spec, [])
    return run, Study(run.journal, wanted, points.load(wanted) if wanted.table else space.load(run.space(wanted.space)))


def assert_same_curve(found: list[dict[str, Any]], name: str, key: str) -> None:
    """As the version that made the run resumed it.

    Another CPU rounds otherwise, which grows from 1e-7 to 2e-3 within 240 steps. With the learning rate inside of
    LARS's buffer the loss of the second epoch is 5e-3 off, that of the third 2e-2.
    """
    expected = json.loads((FIXTURES / name / "expected.json").read_text())[key]
    assert [row["epoch"] for row in found] == [row["epoch"] for row in expected] == [1, 2, 3]
    for row, other in zip(found, expected, strict=True):
        close = 1e-4 if row["epoch"] < 3 else 1e-2
        assert row["loss"] == pytest.approx(other["loss"], rel=close)
        assert row["teacher_distance"] == pytest.approx(other["teacher_distance"], rel=close)
        for exact in ("step", "lr", "momentum", "p", "weight_decay"):
            assert row[exact] == pytest.approx(other[exact], rel=1e-12)


@every_run
def test_an_interrupted_trial_goes_on_as_the_version_that_began_it_would_have(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """LARS with the rate outside of its buffer, although the preset of the run has it inside today."""
    # Fails when a key that is missing gets today's default, or the preset's value.
    monkeypatch.setenv("TEACHER_TUNER_CACHE", str(tmp_path / "cache"))
    run, study = opened(copied(name, tmp_path))
    (proposal,) = study.interrupted()
    assert run.format == 1 and proposal.config.optim.name == name and not proposal.config.optim.lr_in_buffer
    folder = run.trial_folder(proposal.key)
    before = checkpoint.newest(folder)
    assert before is not None and before.values["learner"]["step"] % 160, "in the middle of an epoch"
    assert before.config["optim"]["lr_in_buffer"] is False and "lr_in_buffer" not in before.values["config"]["optim"]
    assert_same_curve(train.fit(proposal.config, folder, lambda metrics: "on"), name, proposal.key)
    after = checkpoint.newest(folder)
    assert after is not None and after.values["format"] == formats.FORMAT and after.values["versions"]["teacher-tuner"]
    assert after.values["config"]["optim"]["lr_in_buffer"] is False


def test_a_trial_of_lars_does_not_go_on_with_its_rate_elsewhere_and_one_of_sgd_does_not_care(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As `python -m trainables.running.train` would, with a configuration that lacks the key."""
    monkeypatch.setenv("TEACHER_TUNER_CACHE", str(tmp_path / "cache"))
    configs = {}
    for name in ("lars", "sgd"):
        run, study = opened(copied(name, tmp_path))
        configs[name] = (
            c.changed(study.interrupted()[0].config.plain(), {"optim.lr_in_buffer": True}),
            run.trial_folder("0001"),
        )
    with pytest.raises(UserError, match=r"optim.lr_in_buffer = True: the checkpoints in .* are of a trial with False"):
        train.fit(*configs["lars"], lambda metrics: "on")
    history = train.fit(*configs["sgd"], lambda metrics: "stop")  # no more than what it knew
    assert [metrics["epoch"] for metrics in history] == [1]


@every_run
def test_points_and_proposals_that_follow_get_the_old_value_too(name: str, tmp_path: Path) -> None:
    run, study = opened(copied(name, tmp_path))
    asked = study.ask()
    if name == "sgd":  # a table of two points
        assert asked is None
        return
    assert (
        isinstance(asked, Proposal)
        and asked.config.preset == "momentum2_cluster"
        and not asked.config.optim.lr_in_buffer
    )
    trials = study.trials()
    assert [trial.user_attrs.get("format", 1) for trial in trials] == [1, 1, formats.FORMAT]
    assert trials[-1].user_attrs["version"] == formats.version()
    run.write_spec(study.spec.plain())
    assert run.spec["trial"]["optim"]["lr_in_buffer"] is False, "and it stays, once it is written"


def test_a_run_of_an_earlier_version_says_what_changes_and_one_of_a_later_version_is_refused(tmp_path: Path) -> None:
    assert formats.news(formats.FORMAT) is None
    line = formats.news(1)
    assert line is not None and "\n" not in line and "format 1" in line
    new = Run.create(tmp_path / "new", "search", spec.parse({}).plain(), 0)
    assert new.format == new.manifest["format"] == formats.FORMAT == 3
    (new.path / "manifest.json").write_text(json.dumps({**new.manifest, "format": formats.FORMAT + 1}))
    with pytest.raises(UserError, match=f"was made by a later version, in format {formats.FORMAT + 1}"):
        Run(new.path)
    (new.path / "manifest.json").write_text(json.dumps({**new.manifest, "format": "?"}))
    with pytest.raises(UserError, match="is damaged"):
        Run(new.path)


@pytest.mark.ray
@pytest.mark.long
@every_run
def test_a_search_that_was_killed_under_an_earlier_version_is_resumed_to_its_end(tuner: Tuner, name: str) -> None:
    run = copied(name, tuner.folder)
    assert (
        tuner.run("resume", name)
        .splitlines()[0]
        .startswith(f"{name}: begun by an earlier version (format 1, now {formats.FORMAT})")
    )
    state = tuner.state(name)
    assert {row["state"] for row in state["trials"]} == {"complete"}
    for key in json.loads((FIXTURES / name / "expected.json").read_text()):
        found = checkpoint.newest(run / "trials" / key)
        assert found is not None
        assert_same_curve(found.values["history"], name, key)
    best = yaml.safe_load((run / "best" / "best.yaml").read_text())
    assert best["optim"]["lr_in_buffer"] is False
    assert "begun by" in tuner.run("resume", name), "whatever is asked of it later too"
