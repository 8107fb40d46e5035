"""`tuner` as the command of a Ray job: it uses the job's cluster, and writes nothing that Ray deletes."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.trainables.pictures import encoded, picture
from tests.tuner.conftest import SMALL, Tuner
from trainables.config.errors import UserError
from tuner.commands import checks
from tuner.commands import main as cli
from tuner.plan import jobs, reading

ONE: dict[str, object] = {**SMALL, "trials": 1, "resources": {"workers": 1}}


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of a job, in which this process is its command."""
    folder = tmp_path / "session_1" / "runtime_resources" / "working_dir_files" / "_ray_pkg_0123456789abcdef"
    folder.mkdir(parents=True)
    (folder / "search.yaml").write_text(yaml.safe_dump(ONE))
    (folder / "trial.yaml").write_text(yaml.safe_dump(SMALL["trial"]))
    (tmp_path / "link").symlink_to(folder)
    monkeypatch.chdir(folder)
    monkeypatch.setenv(jobs.MARK, json.dumps({"runtime_env": {"env_vars": {"OMP_NUM_THREADS": "1"}}, "metadata": {}}))
    return folder


@pytest.mark.parametrize("where", [None, "runs/digits", "{copy}/runs", "{copy}/../other/run", "{link}/run"])
def test_a_run_directory_that_would_be_deleted(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], where: str | None
) -> None:
    where = where and where.format(copy=copy, link=tmp_path / "link")
    given = ["--run", where] if where else []
    for command in (
        ["launch", "search.yaml", *given],
        ["train", "trial.yaml", *given],
        *([["resume", where]] if where else []),
    ):
        assert cli.main(command) == 2
        said = capsys.readouterr().err
        reason = "the working folder of a Ray job is a copy that Ray deletes"
        rule = f"{reason}, so inside of a job this must be an absolute path outside of it"
        assert (
            rule in said
            and "such as /shared/runs/name" in said
            and (where or "error: --run: ") in said
            and len(said.splitlines()) == 1
        )
    assert sorted(path.name for path in copy.iterdir()) == ["search.yaml", "trial.yaml"]


def test_other_files_that_would_be_deleted(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command, words in (
        (["export", "/somewhere"], "--output best.yaml: "),
        (["evaluate", "/x", "--save", "file"], "--save file: "),
    ):
        assert cli.main(command) == 2
        assert words in capsys.readouterr().err
    for path in (None, Path("relative"), copy / "runs"):
        with pytest.raises(UserError, match="deletes"):
            jobs.require_kept(path, "--run")
    jobs.require_kept(Path("/shared/runs/digits"), "--run")


def test_data_that_would_be_deleted(copy: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Not only by the run: a resume, an evaluation and a full run would look for them, too."""
    for i in range(40):
        path = copy / "set" / "train" / f"n{i % 2}" / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(i)))
    for command, key in (("launch search.yaml --set trial.", "trial.data."), ("train trial.yaml --set ", "data.")):
        for setting in ("data.root=set", "data.labels.file=list.txt"):
            (copy / "list.txt").write_text("1\n2")
            assert cli.main([*f"{command}{setting}".split(), "--run", str(tmp_path / "run")]) == 2
            said = capsys.readouterr().err
            assert (
                said.startswith(f"error: {key}{setting.partition('=')[0].removeprefix('data.')} = '")
                and "is a copy that Ray deletes" in said
            )
    assert not (tmp_path / "run").exists()


def test_a_job_uses_its_own_cluster(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, launched = copy / "search.yaml", {**ONE, "address": "local"}
    assert (
        reading.read(path, []).address == "auto"
        and reading.read(path, ["address=10.0.0.1:6379"]).address == "10.0.0.1:6379"
    )
    assert reading.continued(launched, []).address == "auto"
    assert reading.continued({**ONE, "address": "10.0.0.1:6379"}, []).address == "10.0.0.1:6379"
    with pytest.raises(
        UserError, match=r"^address = 'local': inside of a Ray job there is a cluster already; leave the address away"
    ):
        checks.require_cluster(reading.read(path, ["address=local"]))
    assert jobs.variables() == {"OMP_NUM_THREADS"}
    monkeypatch.delenv(jobs.MARK)
    assert (
        reading.read(path, []).address == reading.continued(launched, []).address == "local"
        and jobs.variables() == set()
    )
    jobs.require_kept(None, "--run")
    jobs.require_kept(Path("runs/digits"), "--run")


# for real

NAMES = ("RAY_ADDRESS", jobs.MARK, "PYTEST_CURRENT_TEST")


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return taken.getsockname()[1]


def descendants(process: int) -> dict[int, str]:
    """Children of a process, and theirs, each with the time of its start, for a number may be used again."""
    parents, started = {}, {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has just ended
            fields = stat.read_text().rpartition(")")[2].split()
            parents[int(stat.parent.name)], started[int(stat.parent.name)] = int(fields[1]), fields[19]
    found, before = {process}, set[int]()
    while found != before:
        before, found = found, found | {child for child, parent in parents.items() if parent in found}
    return {child: started[child] for child in found if child in started}


def lives(process: int, started: str) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19] == started
    return False


class Head:
    """A Ray head with a dashboard, on ports and in a folder of its own."""

    def __init__(self, folder: Path):
        self.ray = str(Path(sys.executable).with_name("ray"))
        (folder / "token").write_text("0123456789abcdef" * 4)
        own = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(folder / "token"), "RAY_USAGE_STATS_ENABLED": "0"}
        self.environment = {name: value for name, value in os.environ.items() if name not in NAMES} | own
        self.dashboard, options = (
            free_port(),
            ["--num-cpus=3", "--dashboard-host=127.0.0.1", "--node-ip-address=127.0.0.1"],
        )
        for name in (
            "port",
            "ray-client-server-port",
            "dashboard-agent-listen-port",
            "dashboard-agent-grpc-port",
            "metrics-export-port",
        ):
            options.append(f"--{name}={free_port()}")
        command = [
            self.ray,
            "start",
            "--head",
            "--block",
            f"--temp-dir={folder}",
            f"--dashboard-port={self.dashboard}",
            *options,
        ]
        self.log = (folder / "head.log").open("w")
        # in a session of its own: when it ends it kills its whole process group
        self.process = subprocess.Popen(
            command, env=self.environment, stdout=self.log, stderr=self.log, cwd=folder, start_new_session=True
        )

    def submit(self, folder: Path, command: list[str], environment: dict[str, object]) -> tuple[int, str]:
        """Runs a command as a job, to its end; returns the exit status and all that was printed."""
        where = [f"--address=http://127.0.0.1:{self.dashboard}", "--working-dir", str(folder)]
        words = [self.ray, "job", "submit", *where, f"--runtime-env-json={json.dumps(environment)}", "--", *command]
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=240)
        return done.returncode, done.stdout + done.stderr

    def wait(self) -> None:
        """Until jobs can be submitted."""
        end = time.monotonic() + 90
        command = [self.ray, "job", "list", f"--address=http://127.0.0.1:{self.dashboard}"]
        while subprocess.run(command, env=self.environment, capture_output=True).returncode:
            assert time.monotonic() < end and self.process.poll() is None, Path(self.log.name).read_text()
            time.sleep(1)

    def stop(self) -> None:
        """Ends the head and whatever it started, and nothing else."""
        started = descendants(self.process.pid)
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(20)
        for process, time_of_start in started.items():
            if lives(process, time_of_start):
                os.kill(process, signal.SIGKILL)
        self.process.wait()
        self.log.close()


@pytest.fixture
def head() -> Iterator[Head]:
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir="/tmp", ignore_cleanup_errors=True
    ) as folder:  # sockets want short paths
        started = Head(Path(folder))
        try:
            started.wait()
            yield started
        finally:
            started.stop()


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(600)
def test_a_real_job(head: Head, tmp_path: Path) -> None:
    (work := tmp_path / "work").mkdir()
    (work / "search.yaml").write_text(yaml.safe_dump(ONE))
    program, run = [sys.executable, "-m", "tuner.commands.main", "launch", "search.yaml"], tmp_path / "runs" / "job"
    status, said = head.submit(work, program, {})
    assert status != 0 and "error: --run: the working folder of a Ray job is a copy that Ray deletes" in said, said
    environment = {"env_vars": {"OMP_NUM_THREADS": "1", "TEACHER_TUNER_CACHE": str(tmp_path / "cache")}}
    status, said = head.submit(work, [*program, "--run", str(run)], environment)
    assert status == 0 and "best configuration: " in said, said
    state = json.loads(Tuner(tmp_path).run("status", str(run), "--json"))
    assert [row["state"] for row in state["trials"]] == ["complete"] and (run / "best" / "best.yaml").is_file()
    assert yaml.safe_load((run / "spec.yaml").read_text())["address"] == "auto"
    sessions = json.loads((run / "manifest.json").read_text())["sessions"]
    assert [[node["CPU"] for node in session["nodes"]] for session in sessions] == [[3]], (
        "it ran on the cluster of the job"
    )
