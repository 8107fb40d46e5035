"""A shared cluster of `ray start` with tokens: who has none is told what to do, and no driver leaves anything."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.results import on_cluster
from tests.tuner.conftest import SMALL, Tuner
from tests.tuner.fleet.test_kill import checkpoints, wait_for

pytestmark = [pytest.mark.long, pytest.mark.ray, pytest.mark.timeout(300)]
LONG = {**SMALL["trial"], "train": {**SMALL["trial"]["train"], "epochs": 100}}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head with two CPUs, whose token is that of the environment."""
    folder = tmp_path_factory.mktemp("head")
    token = folder / "token"
    token.write_text("0123456789" * 5)
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "token")
        environment.setenv("RAY_AUTH_TOKEN_PATH", str(token))
        yield from head_in(folder)


def head_in(folder: Path) -> Iterator[str]:
    """The address of a head that writes its log into a folder, until it is asked to end."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    options = ["--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    with (folder / "head.log").open("w") as log:
        head = subprocess.Popen([Path(sys.executable).with_name("ray"), "start", *options], stdout=log, stderr=log)
    try:
        wait_for(lambda: "Ray runtime started" in (folder / "head.log").read_text(), "head", 60)
        yield f"127.0.0.1:{port}"
    finally:
        head.send_signal(signal.SIGTERM)
        head.wait(90)


def test_an_interrupted_search_leaves_nothing_on_the_cluster(tuner: Tuner, address: str) -> None:
    run = tuner.folder / "interrupted"
    driver = tuner.start("launch", tuner.write_search(trial=LONG, trials=2), "--address", address, "--run", run.name)
    wait_for(lambda: checkpoints(run, "0000") or driver.poll() is not None, "checkpoint")
    driver.send_signal(signal.SIGINT)
    _, err = driver.communicate(timeout=60)
    assert driver.returncode == 130, err

    end, left = time.monotonic() + 60, None
    while left != ([], [], 2.0, 2.0) and time.monotonic() < end:
        left = on_cluster(address, os.environ)
    assert left == ([], [], 2.0, 2.0)
    assert not (run / "ray").exists()


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"RAY_AUTH_TOKEN_PATH": "bad"}, ["there: ray get-auth-token", "to bad"]),
        ({"RAY_AUTH_TOKEN_PATH": "missing"}, ["there: ray get-auth-token", "to missing"]),
        ({"RAY_AUTH_MODE": "disabled"}, ["and export RAY_AUTH_MODE=token"]),
    ],
)
def test_a_token_that_the_cluster_refuses(
    tuner: Tuner, address: str, monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], words: list[str]
) -> None:
    (tuner.folder / "bad").write_text("9876543210" * 5)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    driver = tuner.start("launch", tuner.write_search(), "--address", address, "--run", "refused")
    _, err = driver.communicate(timeout=100)
    assert driver.returncode == 2
    (line,) = err.splitlines()
    assert line.startswith(f"error: address = '{address}': the cluster refuses this shell's token; ")
    for word in words:
        assert word in line
    assert not (tuner.folder / "refused").exists()
