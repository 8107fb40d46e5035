"""A search that is small enough for tests, and `tuner` as a user runs it: in a process of its own."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

SMALL: dict[str, Any] = {
    "name": "small",
    "trials": 4,
    "trial": {
        "data": {"name": "digits", "train_images": 256, "validation_images": 100},
        "encoder": {"name": "resnet10", "width": 4, "projector": {"hidden": 32, "out": 16}},
        "method": {"predictor_hidden": 32},
        "train": {"epochs": 3, "batch_size": 32, "shard_size": 16, "checkpoint_steps": 3},
    },
    "stopping": {"kind": "asha", "grace_epochs": 1, "reduction": 2},
    "sampler": {"startup_trials": 2},
    "resources": {"workers": 2, "concurrent_trials": 1},
}


class Tuner:
    """Runs `tuner` commands in a folder."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(
        self, *arguments: str, stdout: Any = subprocess.PIPE, in_background: bool = False
    ) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "tuner.commands.main", *arguments]
        first, pipe = _ignore_interrupts if in_background else _hear_interrupts, subprocess.PIPE
        return subprocess.Popen(command, cwd=self.folder, stdout=stdout, stderr=pipe, text=True, preexec_fn=first)

    def run(self, *arguments: str, status: int = 0) -> str:
        process = self.start(*arguments)
        out, err = process.communicate(timeout=280)
        assert process.returncode == status, f"{arguments}: {process.returncode}\n{out}\n{err}"
        return out

    def write_search(self, **changes: Any) -> str:
        path = self.folder / "search.yaml"
        path.write_text(yaml.safe_dump({**SMALL, **changes}))
        return str(path)

    def state(self, run: str) -> dict[str, Any]:
        return json.loads(self.run("status", run, "--json"))


def _hear_interrupts() -> None:
    """As in a terminal; a shell that runs the tests in the background has its children ignore them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _ignore_interrupts() -> None:
    """As a shell has it for what a script starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@pytest.fixture(scope="module")
def tuner(tmp_path_factory: pytest.TempPathFactory) -> Tuner:
    return Tuner(tmp_path_factory.mktemp("user"))


@pytest.fixture
def disc(tmp_path: Path) -> Iterator[Path]:
    """A disc of 8 MB."""
    folder = tmp_path / "disc"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)
