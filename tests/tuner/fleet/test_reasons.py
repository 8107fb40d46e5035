"""Why a driver broke off, in its last line: what Tune has wrapped is found again."""

import errno
import traceback
from pathlib import Path

import pytest
from ray.tune import TuneError

from trainables.config.errors import BrokenOff
from tuner.fleet import cluster
from tuner.runs import run as runs

FULL = OSError(errno.ENOSPC, "No space left on device")


def wrapped(error: Exception) -> Exception:
    """An error of a callback, as Tune raises it."""
    try:
        try:
            raise error
        except Exception:
            raise TuneError(traceback.format_exc())  # noqa: B904
    except TuneError as tune_error:
        return tune_error


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (
            wrapped(BrokenOff("journal.log: cannot be written (No space left on device); mend that first")),
            "journal.log: cannot be written",
        ),
        (wrapped(FULL), "run: No space left on device; make room there"),
        (FULL, "run: No space left on device; make room there"),
        (wrapped(KeyError("x")), "broken off by TuneError: KeyError: 'x' (log: "),
    ],
)
def test_the_reason_of_an_error(tmp_path: Path, error: Exception, words: str) -> None:
    run = runs.Run.create(tmp_path / "run", "search", {}, 0)
    said = cluster._reason(error, run)
    assert words in said
    assert len(said.splitlines()) == 1
