"""A stopper's or sampler's file that is faulty: a line names the setting, the file, its line and the fault."""

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tuner.commands.test_bad_input import complaint, no_ray  # noqa: F401  (nothing here may start Ray)
from tests.tuner.conftest import SMALL
from trainables.config.errors import UserError
from tuner.plan import spec as specs
from tuner.runs.run import Run
from tuner.search import samplers, stoppers
from tuner.search.samplers import base as sampler_base
from tuner.search.stoppers import base as stopper_base

HEAD = "from tuner.search.stoppers.base import Stopper\n\n\nclass Mine(Stopper):\n"
HEAR = "    def hear(self, key, epoch, score):\n        "
KINDS = {"stopper": ("stopping.kind", "asha", stoppers), "sampler": ("sampler.kind", "tpe", samplers)}


def place(monkeypatch: pytest.MonkeyPatch, folder: Path, kind: str, text: str) -> tuple[Path, str]:
    """Puts a user's file before the one that a search names; returns its path, and how an error about it begins."""
    key, name, package = KINDS[kind]
    path = folder / kind / f"{name}.py"
    path.parent.mkdir()
    path.write_text(text)
    monkeypatch.setattr(package, "__path__", [str(path.parent), *package.__path__])
    module = f"{package.__name__}.{name}"
    monkeypatch.setitem(sys.modules, module, None)  # so that the module of now comes back after the test
    del sys.modules[module]
    return path, f"{key} = '{name}': {path} "


FAULTS = [
    ("stopper", "x = 1\n", "has no subclass of Stopper"),
    ("stopper", "import nothing_of_that_name\n", "cannot be imported (ModuleNotFoundError: No module named"),
    ("stopper", "\n\nx = 1 / 0\n", "cannot be imported (ZeroDivisionError: division by zero, line 3)"),
    ("stopper", "def broken(:\n", "cannot be imported (SyntaxError: invalid syntax (asha.py, line 1))"),
    ("stopper", "raise SystemExit(0)\n", "cannot be imported (SystemExit: 0, line 1)"),
    (
        "stopper",
        HEAD + HEAR + "return 'stop'\n\n\nclass Other(Stopper):\n" + HEAR + "return 'stop'\n",
        "has more than one stopper: Mine, Other; a file has one",
    ),
    ("stopper", HEAD + "    pass\n", "has a stopper, Mine, that cannot be made (TypeError: Can't instantiate"),
    (
        "stopper",
        HEAD + "    def __init__(self, spec):\n        raise KeyError('rungs')\n\n" + HEAR + "return 'stop'\n",
        "has a stopper, Mine, that cannot be made (KeyError: 'rungs', line 6)",
    ),
    ("sampler", "import nothing_of_that_name\n", "cannot be imported (ModuleNotFoundError: No module named"),
    ("sampler", "x = 1\n", "has no function make(options, seed)"),
    ("sampler", "make = 3\n", "has no function make(options, seed)"),
    ("sampler", "def make(options, seed):\n    return 3\n", "has a function make that returned 3, which is no sampler"),
    ("sampler", "def make(seed):\n    return 3\n", "has a function make that raised (TypeError: make() takes 1"),
    (
        "sampler",
        "def make(options, seed):\n    return options.rungs\n",
        "has a function make that raised (AttributeError: 'Sampler' object has no attribute 'rungs', line 2)",
    ),
]


@pytest.mark.parametrize(("kind", "text", "words"), FAULTS)
@pytest.mark.parametrize("command", ["launch", "resume", "simulate"])
def test_a_faulty_file_dies_before_ray(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    kind: str,
    text: str,
    words: str,
    command: str,
) -> None:
    search = tmp_path / "search.yaml"
    search.write_text(yaml.safe_dump(SMALL))
    begun = Run.create(tmp_path / "begun", "search", specs.parse(SMALL).plain(), 0)
    begun._lock._file.close()  # as when its process has ended
    (tmp_path / "curves.csv").write_text("")
    arguments = {"launch": [search], "resume": [begun.path], "simulate": [search, "--curves", tmp_path / "curves.csv"]}
    _, start = place(monkeypatch, tmp_path, kind, text)
    assert f"error: {start}{words}" in complaint(capsys, command, *map(str, arguments[command]))


def test_a_stopper_may_have_a_base_in_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = HEAD + "    pass\n\n\nclass Other(Mine):\n" + HEAR + "return 'stop'\n\n\nAlias = Other\n"
    place(monkeypatch, tmp_path, "stopper", text)
    stopper = stopper_base.make(specs.parse(SMALL))
    assert type(stopper).__name__ == "Other"
    assert stopper_base.judge(stopper, "0000", 1, 0.5) == "stop"


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (
            HEAR + "return score / 0",
            "raised at epoch 2 of trial 0003 (ZeroDivisionError: float division by zero, line 6)",
        ),
        (HEAR + "raise SystemExit(3)", "raised at epoch 2 of trial 0003 (SystemExit: 3, line 6)"),
        (
            HEAR + "return None",
            "answered None to epoch 2 of trial 0003 (hear, line 5); a verdict is one of continue, stop",
        ),
        (HEAR + "return 'halt'", "answered 'halt' to epoch 2 of trial 0003 (hear, line 5)"),
        (HEAR + "return ['stop']", "answered ['stop'] to epoch 2 of trial 0003 (hear, line 5)"),
    ],
)
def test_a_stopper_that_fails_while_it_judges(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    _, start = place(monkeypatch, tmp_path, "stopper", HEAD + body + "\n")
    stopper = stopper_base.make(specs.parse(SMALL))
    with pytest.raises(UserError) as error:
        stopper_base.judge(stopper, "0003", 2, 0.5)
    assert str(error.value).startswith(start + words)


@pytest.mark.parametrize("answer", ["None", "'0000'", "[3]"])
def test_promotions_that_are_no_list_of_keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answer: str) -> None:
    body = f"{HEAR}return 'pause'\n\n    def promoted(self):\n        return {answer}\n"
    _, start = place(monkeypatch, tmp_path, "stopper", HEAD + body)
    stopper: Any = stopper_base.make(specs.parse(SMALL))
    with pytest.raises(UserError) as error:
        stopper_base.promoted(stopper)
    assert str(error.value) == f"{start}promoted {answer}; it must be a list of keys of trials"


def test_a_stopper_that_fails_at_the_end_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, start = place(monkeypatch, tmp_path, "stopper", HEAD + HEAR + "return score / 0\n")
    with pytest.raises(UserError) as error:
        stopper_base.conclude(stopper_base.make(specs.parse(SMALL)), "0003", 3, 0.5)
    assert str(error.value).startswith(f"{start}raised at epoch 3 of trial 0003, its last (ZeroDivisionError")


def test_a_sampler_has_a_seed_for_each_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "import optuna\n\nseeds = []\n\n\ndef make(options, seed):\n    seeds.append(seed)\n"
    place(monkeypatch, tmp_path, "sampler", text + "    return optuna.samplers.RandomSampler(seed)\n")
    for number in (0, 1, 0):
        sampler_base.make(specs.parse(SMALL), number)
    seeds = sys.modules["tuner.search.samplers.tpe"].seeds
    assert seeds[0] == seeds[2] != seeds[1]
