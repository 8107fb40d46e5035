"""`tuner doctor`: a fault of each kind is found and named, with what to do; nothing hangs."""

import argparse
import itertools
import json
import os
import re
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.specifiers import SpecifierSet

from tests.tuner.conftest import SMALL
from trainables.config.errors import UserError
from trainables.running import dry_step
from tuner.commands import checks, doctor
from tuner.commands import main as cli
from tuner.commands.checkup import base, machine, nodes, storage, trial
from tuner.commands.checkup.base import Finding, in_time
from tuner.fleet.facts import Facts, Gpus, Questions, gather
from tuner.plan import space, spec
from tuner.plan.resources import Resources

GB = 10**9
SIX_SHARDS = {"batch_size": 48, "shard_size": 8, "epochs": 2}
ONE_GPU = Resources(gpus_per_worker=1)


def facts(**changes: object) -> Facts:
    plain = Facts(
        host="here",
        versions={"python": "3.11.7", "torch": "2.15.0"},
        code="0123",
        cpus=2,
        quota=None,
        memory=16 * GB,
        available=12 * GB,
        shared=True,
        locked=True,
        files={"/data": 7},
        cache="/cache",
        cache_room=50 * GB,
    )
    return replace(plain, **changes)  # type: ignore[arg-type]


def node(name: str = "n1", **changes: object) -> nodes.Node:
    own = {key: changes.pop(key) for key in ("offset", "uncertainty", "resources") if key in changes}
    return nodes.Node(name, **{"resources": {"CPU": 2.0}, "facts": facts(**changes), **own})  # type: ignore[arg-type]


def states(findings: list[Finding]) -> dict[str, str]:
    return {finding.name: finding.state for finding in findings}


def only(findings: list[Finding], state: str) -> Finding:
    (found,) = [finding for finding in findings if finding.state != "ok"]
    assert found.state == state and found.advice and "\n" not in found.text + found.advice
    return found


# -- versions and the machine


def test_a_version_below_its_bound_and_a_missing_package_are_faults() -> None:
    needed = {"torch": SpecifierSet(">=2.11"), "ray": SpecifierSet(">=2.60"), "rich": SpecifierSet(">=13")}
    found = only(machine.versions(needed, {"torch": "2.9.1+cpu", "ray": None, "rich": "13.1"}), "fault")
    assert (
        found.text == "torch 2.9.1+cpu (needs >=2.11), ray is missing (needs >=2.60)" and "pip install" in found.advice
    )


def test_the_bounds_are_those_of_pyproject_and_hold_here() -> None:
    needed = machine.bounds()
    assert str(needed["ray"]).startswith(">=2.") and str(needed["python"]) == ">=3.11" and "pytest" not in needed
    (found,) = machine.versions(needed, machine.installed([*needed, *machine.SHOWN]))
    assert found.state == "ok" and "optuna " in found.text


def test_a_container_that_may_use_fewer_cores_than_ray_counts() -> None:
    assert only(machine.cores_and_memory(facts(quota=0.5)), "warning").text.endswith("may use 0.5 at once")
    assert only(machine.cores_and_memory(facts(available=GB)), "warning").name == "memory"
    assert set(states(machine.cores_and_memory(facts(quota=2.0))).values()) == {"ok"}


def test_gpus_are_a_fault_only_where_a_search_asks_for_them() -> None:
    h100 = Gpus("560.1", ("H100",), ("H100",), "12.8", "2.27")
    unusable = replace(h100, usable=(), cuda=None)
    assert machine.gpus(Gpus(), None).state == machine.gpus(Gpus(), Resources()).state == "ok"
    assert machine.gpus(Gpus(), ONE_GPU).state == machine.gpus(unusable, ONE_GPU).state == "fault"
    assert "torch is built without CUDA" in machine.gpus(unusable, None).text
    assert machine.gpus(unusable, None).state == machine.gpus(h100, Resources()).state == "warning"
    assert machine.gpus(h100, ONE_GPU).text == "1 x H100 (driver 560.1, CUDA 12.8, NCCL 2.27)"


def test_the_facts_of_this_machine(tmp_path: Path) -> None:
    """As a process of its own they are the same, and survive JSON."""
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b", ".hidden"):
        (tmp_path / name).touch()
    (tmp_path / "token").write_text("secret")
    told = {"token": str(tmp_path / "token"), "secret": "secret", "data": [str(tmp_path), "/nowhere"], "cache": None}
    here = gather(Questions(**{**told, "data": (str(tmp_path), "/nowhere")}))  # type: ignore[arg-type]
    assert here.files == {str(tmp_path): 3, "/nowhere": None} and here.cpus == len(os.sched_getaffinity(0))
    assert here.shared is True and here.locked is False and 0 < here.available <= here.memory
    answered = Facts.from_plain(base.ask("tuner.fleet.facts", told, 60))
    assert replace(answered, available=0, cache_room=0) == replace(here, available=0, cache_room=0)
    assert gather(Questions(token=str(tmp_path / "token"), secret="other")).shared is False


# -- storage


def test_a_storage_that_cannot_be_written(tmp_path: Path) -> None:
    """A folder in which even root can make nothing."""
    for check in (storage.files, storage.speed):
        found = only(in_time("storage", 10, lambda check=check: check(Path("/proc/run"))), "fault")
        assert "/proc: cannot hold a run" in found.text and "--run" in found.advice
    assert only(
        [*in_time("s", 10, lambda: storage.files(tmp_path / "a" / "b")), Finding("x", "fault", "t", "a")], "fault"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_storage_without_locks_or_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage.fcntl, "flock", lambda *_: None)
    with pytest.raises(UserError, match="cannot be locked, so two drivers could run one search; choose another"):
        storage.require_usable(tmp_path / "run")
    monkeypatch.setattr(Path, "replace", lambda *_: None)
    with pytest.raises(UserError, match="cannot be renamed in one step"):
        storage.require_usable(tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_a_small_disc(disc: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    wanted = spec.parse(SMALL)  # 4 trials x 4 checkpoints
    assert storage.space(disc / "run", wanted, 100_000).state == "ok"
    assert storage.space(disc / "run", wanted, 450_000).state == "warning"
    found = storage.space(disc / "run", wanted, 10**6)
    assert found.state == "fault" and "8.39 MB are free, the search needs 16 MB (4 trials x 4 checkpoints" in found.text
    assert storage.space(disc / "run").state == "warning"
    capped = storage.space(disc / "run", spec.parse({**SMALL, "storage": {"limit": "9 MB"}}), 10**6)
    assert capped.state == "fault" and capped.text.endswith("the search needs 9 MB, its storage.limit")
    with (disc / "ballast").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, 7 * 10**6)
    (tmp_path / "search.yaml").write_text(yaml.safe_dump(SMALL))
    assert cli.main(["launch", str(tmp_path / "search.yaml"), "--run", str(disc / "run")]) == 2
    said = capsys.readouterr()
    assert said.err.startswith(f"error: {disc}: only 1.38 MB are free; make room") and [*disc.iterdir()] == [
        disc / "ballast"
    ]


def test_a_disc_that_writes_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert storage.speed(tmp_path)[0].name == "storage: speed"
    monkeypatch.setattr(storage, "SLOW", 10**15)
    assert "trials wait for their checkpoints" in only(storage.speed(tmp_path), "warning").advice


def test_the_check_of_a_launch_takes_milliseconds(tmp_path: Path) -> None:
    begun = time.process_time()
    for _ in range(20):
        storage.require_usable(tmp_path / "run")
    assert (time.process_time() - begun) / 20 < 0.02


# -- nodes


def found_of(*surveyed: nodes.Node, resources: Resources | None = None) -> list[Finding]:
    return nodes.findings(surveyed, facts(), Path("/runs/x"), resources)


def test_nodes_that_agree() -> None:
    found = found_of(node("n1"), node("n2"), resources=Resources(workers=2))
    assert set(states(found).values()) == {"ok"} and "nodes: data" in states(found)


@pytest.mark.parametrize(
    ("changes", "name", "state", "words"),
    [
        ({"versions": {"python": "3.11.7", "torch": "2.14.0"}}, "versions", "fault", "n2 has torch 2.14.0, this"),
        ({"code": "4567"}, "versions", "fault", "n2: has other code of teacher-tuner"),
        ({"offset": 7.2, "uncertainty": 0.01}, "clocks", "warning", "n2 is +7.2 s off (± 0.010 s)"),
        ({"shared": False, "locked": None}, "storage", "fault", "n2: does not see what this machine writes to /"),
        ({"locked": False}, "storage", "warning", "n2: does not see the locks"),
        ({"files": {"/data": None}}, "data", "fault", "/data (7 files here): n2 cannot read it"),
        ({"files": {"/data": 6}}, "data", "fault", "n2 sees 6 files in it"),
        ({"cache_room": None}, "cache", "fault", "n2: cannot write /cache"),
        ({"cache_room": 10**6}, "cache", "warning", "/cache: 1 MB are free"),
    ],
)  # fmt: skip
def test_a_node_at_fault(changes: dict[str, object], name: str, state: str, words: str) -> None:
    found = only(found_of(node("n1"), node("n2", **changes)), state)
    assert found.name == f"nodes: {name}" and words in found.text


def test_a_clock_that_may_be_right_is_not_blamed() -> None:
    assert set(states(found_of(node("n2", offset=1.3, uncertainty=0.5))).values()) == {"ok"}


def test_a_node_that_does_not_answer() -> None:
    silent = nodes.Node("n2", {"CPU": 1.0}, error="did not answer within 90 s")
    assert only(found_of(node("n1"), silent), "fault").text == "n2 did not answer within 90 s"


def test_no_room_on_the_cluster() -> None:
    found = only(found_of(node("n1"), resources=Resources(workers=3)), "fault")
    assert found.name == "nodes: room" and "a trial needs 3 CPU, the cluster has 2" in found.text


# -- a trial


COST = trial.Cost(seconds=0.1, memory=GB, gpu_memory=None, checkpoint=10**6, images=0, shards=2)


@pytest.mark.parametrize(("memory", "state"), [(6, "ok"), (4.5, "warning"), (3, "fault")])
def test_the_memory_of_all_workers_at_once(memory: float, state: str) -> None:
    machines = [trial.Machine("n1", {"CPU": 4.0}, int(memory * GB))]
    found = trial.memory(spec.parse({**SMALL, "resources": {"workers": 2}}), COST, machines)
    assert found.state == state and (state == "ok" or f"4 workers at once need 4 GB of {memory:g} GB" in found.text)


def test_a_trial_that_is_too_much_for_its_machine_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise UserError("RuntimeError: can't allocate memory")

    monkeypatch.setattr(trial, "ask", fail)
    found = only(in_time("trial", 10, lambda: [trial.finding(1, trial.measured(spec.parse(SMALL), 1))]), "fault")
    assert "a step fails: RuntimeError" in found.text


def test_a_trial_is_tried_at_its_smallest_and_its_largest_width() -> None:
    def at(workers: object, **changes: object) -> list[int]:
        return trial.widths(spec.parse({"resources": {"workers": workers}, "trial": {"train": SIX_SHARDS, **changes}}))

    assert (at(1), at("1-4"), at("2-6"), at("4-6")) == ([1], [1, 3], [2, 6], [4])
    assert at("1-4", teacher={"norm": "sync"}) == [1]


FIXMATCH = {"name": "fixmatch", "images_per_label": 4}


@pytest.mark.parametrize("method", [{"name": "byol"}, {"name": "moco"}, {"name": "dino"}, FIXMATCH], ids=str)
def test_the_first_of_several_workers_makes_real_steps_on_its_shards(method: dict[str, object]) -> None:
    small = {**SMALL["trial"], "method": method, "train": SIX_SHARDS, "online_probe": 0.1}
    wanted = spec.parse({**SMALL, "trial": small, "resources": {"workers": "1-3"}})
    narrow, wide = (dry_step.measure(dry_step.Request(wanted.trial.plain(), n, 1)) for n in (1, 3))
    assert (narrow.shards, wide.shards) == (6, 2) and narrow.checkpoint == wide.checkpoint > 10_000
    assert min(wide.seconds, narrow.seconds) > 0 and narrow.images == 256 * 64 and wide.memory > 10**8


def test_a_dry_step_in_its_own_process() -> None:
    found = trial.finding(1, trial.measured(spec.parse({**SMALL, "resources": {"workers": 1}}), 1))
    assert re.fullmatch(
        r"one worker alone: \d\.\d+ s a step of 2 shards, \d+ MB of memory, a checkpoint of .*", found.text
    )


# -- time


def test_a_check_that_hangs_or_breaks_off_is_a_fault() -> None:
    begun = time.monotonic()
    assert only(in_time("it", 0.1, lambda: time.sleep(60)), "fault").text == "no answer within 0.1 s"  # type: ignore[arg-type, return-value]
    assert time.monotonic() - begun < 5
    assert only(in_time("it", 5, lambda: [1 / 0]), "fault").text.startswith(
        "the check itself broke off by ZeroDivision"
    )  # type: ignore[list-item]
    assert only(in_time("it", 5, lambda: list(Path("/nowhere").iterdir())), "fault").text.startswith("/nowhere: ")  # type: ignore[arg-type]


def test_a_process_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "hangs.py").write_text(
        "import subprocess, time, pathlib\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"pathlib.Path({str(tmp_path / 'child')!r}).write_text(str(child.pid))\ntime.sleep(600)\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(base.Late, match="no answer within 2 s"):
        base.ask("hangs", {}, 2.0)
    child = int((tmp_path / "child").read_text())
    end = time.monotonic() + 5
    while time.monotonic() < end and Path(f"/proc/{child}").exists() and "Z" not in _state(child):
        time.sleep(0.05)
    assert not Path(f"/proc/{child}").exists() or "Z" in _state(child)


def test_a_process_that_runs_out_of_memory_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The system ends it by SIGKILL; a step of a trial gets advice with it."""
    (tmp_path / "killed.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(base.Killed, match=r"^was killed \(signal 9\), as the system does where memory runs out$"):
        base.ask("killed", {}, 60.0)
    monkeypatch.setattr(trial, "ask", lambda *_: base.ask("killed", {}, 60.0))
    found = only(in_time("trial", 60, lambda: [trial.finding(1, trial.measured(spec.parse(SMALL), 1))]), "fault")
    assert found.text.startswith("a step fails: it was killed") and "a smaller train.batch_size" in found.advice


def _state(process: int) -> str:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]


# -- the command


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Ray and without steps."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(nodes, "surveyed", lambda *_: [node("n1", files={}, versions=gather(Questions()).versions)])
    monkeypatch.setattr(trial, "measured", lambda *_: COST)


@pytest.mark.usefixtures("quick")
def test_the_command_prints_a_row_for_each_check(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({**SMALL, "trials": 10_000}))
    status = cli.main(["doctor", "search.yaml"])
    printed = capsys.readouterr().out
    rows = [line for line in printed.splitlines() if line.startswith(("ok ", "warning ", "fault "))]
    names = {row[9:33].strip() for row in rows}
    assert names >= {
        "spec",
        "data",
        "versions",
        "cores",
        "memory",
        "GPUs",
        "storage",
        "cluster",
        "nodes: clocks",
        "trial",
    }
    for check in checks.CHECKS[:3]:
        assert any(row.endswith(f" {check.name}") for row in rows)
    assert "the search needs 40 GB (10000 trials x 4 checkpoints of 1 MB)" in printed
    assert f"{len(rows)} checks: " in printed and "nodes: versions" in names
    assert status == (2 if any(row.startswith("fault") for row in rows) else 0)
    assert not (tmp_path / "runs").exists()


@pytest.mark.usefixtures("quick")
def test_a_spec_at_fault_is_one_fault_among_other_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "search.yaml").write_text(yaml.safe_dump({**SMALL, "trails": 3}))
    assert cli.main(["doctor", "search.yaml", "--json", "--run", "/proc/run"]) == 2
    said = json.loads(capsys.readouterr().out)
    by_name = {row["name"]: row for row in said["checks"]}
    assert not said["ok"] and by_name["spec"]["text"] == "trails: unknown key"
    assert by_name["spec"]["advice"] == "did you mean 'trials'?"
    assert by_name["storage"]["state"] == "fault" and by_name["versions"]["state"] == "ok" and "trial" not in by_name


def of_spec(path: Path, content: dict[str, Any]) -> list[Finding]:
    """What is found of a spec before the doctor looks at the machine."""
    search = path / "search.yaml"
    search.write_text(yaml.safe_dump(content))
    arguments = argparse.Namespace(search=search, run=None, address=None, json=False, set=[])
    findings = doctor.Checkup(arguments).findings()
    return list(itertools.takewhile(lambda finding: finding.name in ("spec", "data"), findings))


@pytest.mark.usefixtures("quick")
def test_a_check_that_hangs_takes_no_finding_of_the_others_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    over = threading.Event()
    monkeypatch.setattr(doctor, "QUICK", 3.0)
    monkeypatch.setattr(doctor.reading, "settled", lambda _: over.wait(60))
    found = of_spec(tmp_path, SMALL)
    over.set()
    assert [(finding.name, finding.state, finding.text) for finding in found] == [
        ("spec", "ok", f"{SMALL['name']}: {SMALL['trials']} trials"),
        ("data", "fault", "no answer within 3 s"),
        *(("spec", "ok", check.name) for check in checks.CHECKS[:4]),
    ]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("within", ["", "    "], ids=["import", "proposal"])
def test_a_space_that_hangs_is_ended_and_the_other_checks_are_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, within: str
) -> None:
    monkeypatch.setattr(space, "PATIENCE", 0.5)
    hangs = f"{within}while True:\n{within}    pass\n"
    (tmp_path / "mine.py").write_text(
        f"{'' if within else hangs}def suggest(trial):\n    pass\n{hangs if within else ''}"
    )
    found = of_spec(tmp_path, {**SMALL, "space": "mine.py:suggest"})
    at_fault = only(found, "fault")
    assert at_fault.text.endswith("within 0.5 seconds") and "mine.py, line" in at_fault.advice
    assert ("spec", "ok", checks.CHECKS[0].name) in [(f.name, f.state, f.text) for f in found] or not within


@pytest.mark.usefixtures("quick")
def test_without_a_spec_there_is_nothing_to_set(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["doctor", "--set", "trials=3"]) == 2
    assert capsys.readouterr().err == "error: --set trials=3: goes with a spec, whose key it changes\n"


def test_an_address_that_does_not_answer_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    class Arguments:
        search, run, address, json, set = None, None, "127.0.0.1:9", False, ()

    made = doctor.Checkup(Arguments())  # type: ignore[arg-type]
    made.facts = facts()
    assert "no Ray head answers there" in only(in_time("cluster", 30, made._cluster), "fault").text


def test_the_doctor_itself_needs_neither_torch_nor_ray() -> None:
    program = "import sys\nfor name in ('ray', 'torch'): sys.modules[name] = None\nimport tuner.commands.doctor"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_no_advice_is_a_riddle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing spec, an address without a head, and errors without advice of their own get a sentence that helps."""

    class Arguments:
        search, run, address, json, set = tmp_path / "missing.yaml", None, "127.0.0.1:9", False, ()

    made = doctor.Checkup(Arguments())  # type: ignore[arg-type]
    made.facts = facts()

    def fails() -> list[Finding]:
        raise UserError("trials = 0: must be at least 1")

    checked = {"spec": made._read, "cluster": made._cluster}
    advice = {name: only(in_time(name, 30, check), "fault").advice for name, check in checked.items()}
    assert advice == {
        "spec": "name a YAML file that can be read",
        "cluster": "start one there with 'ray start --head', or give the address of another",
    }
    assert only(in_time("spec", 5, fails), "fault").advice == "change that value in the spec, or with --set"
    assert "put it right" not in only(in_time("storage", 5, fails), "fault").advice
