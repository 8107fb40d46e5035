"""Searches that end early by a fault of the space: it is named, and trials that run go on to their end."""

import pytest

from tests.tuner.conftest import Tuner

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]
TWO = {
    "trials": 6,
    "resources": {"workers": 1, "concurrent_trials": 2},
    "stopping": {"kind": "none"},
    "space": "mine.py",
}

# raises as soon as two trials have been asked, which no rehearsal sees; the journal tells, whenever slots come up
RAISES = """from pathlib import Path
JOURNAL = Path(__file__).with_name("journal.log")
def suggest(trial):
    return {"optim.lr": trial.suggest_float("lr", 0.01, 0.1) / (JOURNAL.read_text().count('"op_code":4,') < 2)}
"""


def ended(tuner: Tuner, code: str, run: str, status: int) -> tuple[str, str]:
    """What a search prints, and the one line on the error output with which it ends."""
    (tuner.folder / "mine.py").write_text(code)
    process = tuner.start("launch", tuner.write_search(**TWO), "--run", run)
    out, err = process.communicate(timeout=200)
    assert process.returncode == status, err
    (line,) = err.splitlines()
    return out, line


def test_a_space_that_raises_in_the_middle(tuner: Tuner) -> None:
    (tuner.folder / "journal.log").touch()  # beside the space while it is rehearsed
    printed, line = ended(tuner, RAISES, "raises", 2)
    assert "raised ZeroDivisionError" in line
    assert f"{tuner.folder / 'raises' / 'space.py'}, line 4" in line
    assert "trial 0002" in line
    assert "launch it as another run" in line
    assert "no more trials are proposed, and those that run go on to their end" in printed
    assert [row["state"] for row in tuner.state("raises")["trials"]] == ["complete", "complete"]


def test_trials_that_all_diverge(tuner: Tuner) -> None:
    code = "def suggest(trial):\n    return {'optim.lr': 1e30 * trial.suggest_float('lr', 0.5, 1)}\n"
    _, line = ended(tuner, code, "diverge", 1)
    assert line.startswith("error: trials 00")
    assert "failed alike before their first epoch: TrialFailure: the loss is" in line
    states = [row["state"] for row in tuner.state("diverge")["trials"]]
    assert states in (["failed"] * 3, ["failed"] * 4), "one more may have run beside them"
