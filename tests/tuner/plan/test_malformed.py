"""Malformed searches end with lines that name the key, and status 2; none of them imports Ray (see `malformed`)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def launched(count: int, folder: Path) -> None:
    """Has a process of its own launch malformed searches until so many have been refused."""
    ended = subprocess.run(
        [sys.executable, "-m", "tests.tuner.plan.malformed", str(count)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert ended.returncode == 0, ended.stderr[-4000:]
    seen = json.loads(ended.stdout.splitlines()[-1])
    assert sum(seen["refused"].values()) == count and seen["imported"] == []
    assert len(seen["refused"]) > 5 and seen["bases"] > 15
    assert not list(folder.glob("runs"))


def test_malformed_searches(tmp_path: Path) -> None:
    launched(100, tmp_path)


@pytest.mark.long
@pytest.mark.timeout(1000)
def test_a_thousand_malformed_searches(tmp_path: Path) -> None:
    launched(1000, tmp_path)
