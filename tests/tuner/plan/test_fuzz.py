"""Malformed input of hypothesis is answered by short error lines and status 2, never by a traceback.

What such lines name is held by `test_malformed`, where it is known which key is at fault.
"""

import contextlib
import io
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.tuner.commands.test_bad_input import no_ray  # noqa: F401  (what would need Ray or torch has passed all checks)
from trainables.config import trial as c
from trainables.config.settings import dotted_keys, section_keys
from tuner.commands import main as cli
from tuner.plan.spec import SearchSpec
from tuner.runs import run as runs

SECONDS = 5.0  # of this process's own time
KEYS = sorted({*dotted_keys(SearchSpec), *section_keys(SearchSpec)} - {""})
TRIAL_KEYS = sorted({*dotted_keys(c.TrialConfig), *section_keys(c.TrialConfig)} - {""})
SMALL: dict[str, Any] = {"trial": {"train": {"batch_size": 64, "shard_size": 32, "epochs": 2}}, "trials": 2}

names = st.sampled_from(
    ["byol", "moco", "dino", "fixmatch", "mean_teacher", "simsiam", "eman", "placement", "momentum2", "sts", "none"]
)
numbers = st.one_of(
    st.integers(-3, 70),
    st.sampled_from(
        [0.5, 1e12, 1e26, -1e300, 10**9, 10**18, 10**290, 2**31, float("nan"), float("inf"), float("-inf"), -0.0]
    ),
    st.floats(),
    st.integers(),
)
texts = st.one_of(
    names,
    st.text(max_size=12),
    st.sampled_from(
        ["", "..", "²", "1e300 steps", "9e999 steps", "10 epochs", "200 %", "localhost:²", "h" * 300 + ":1", "x" * 5000]
    ),
    st.sampled_from(
        [
            "~nobody-there/x",
            "a/" * 2000,
            "n" * 300,
            "\u202e",
            "1e-3",
            "0x" + "f" * 40,
            "local",
            "teacher",
            "mine.py:suggest",
        ]
    ),
)
plain = st.one_of(st.none(), st.booleans(), numbers, texts)
keys = st.one_of(st.sampled_from([key.split(".")[-1] for key in KEYS]), st.text(max_size=6))
nested = st.recursive(
    plain,
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(st.one_of(keys, numbers), inner, max_size=4)),
    max_leaves=8,
)


@st.composite
def specs(draw: st.DrawFn, known: list[str]) -> dict[str, Any]:
    """A search or a trial that has something odd at some of its keys."""
    content: dict[str, Any] = yaml.safe_load(yaml.safe_dump(SMALL if "trials" in known else SMALL["trial"]))
    for key in draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)):
        at = content
        *path, last = key.split(".")
        for part in path:
            if not isinstance(at.get(part), dict):
                at[part] = {}
            at = at[part]
        at[draw(st.sampled_from([last] * 9 + [last + "s"]))] = draw(nested)
    if "trials" in known and draw(st.booleans()):
        table = st.dictionaries(
            texts, st.one_of(st.none(), st.dictionaries(st.sampled_from(TRIAL_KEYS), nested, max_size=3)), max_size=3
        )
        grid = st.dictionaries(
            st.sampled_from(TRIAL_KEYS), st.one_of(st.lists(nested, max_size=12), nested), max_size=5
        )
        content[draw(st.sampled_from(["points", "grid"]))] = draw(st.one_of(table, grid, nested))
    return content


@st.composite
def documents(draw: st.DrawFn, known: list[str]) -> bytes:
    """The bytes of a file: a spec as YAML, whole, cut off or with something pushed in; or what is no spec at all."""
    kind = draw(st.sampled_from(["spec"] * 8 + ["cut", "pushed", "binary", "text", "deep", "laughs", "large", "twice"]))
    text = yaml.safe_dump(draw(specs(known)), sort_keys=False, allow_unicode=True)
    at = draw(st.integers(0, len(text)))
    if kind == "cut":
        text = text[:at]
    elif kind == "pushed":
        odd = [
            "\t",
            "*a",
            "&a ",
            "[",
            "}",
            "!!int ",
            "!!python/name:os.system ",
            "<<: ",
            "? ",
            "---\n",
            "\x00",
            "\x1b[31m",
            "%",
            "'",
            "1" * 5000,
        ]
        text = text[:at] + draw(st.sampled_from(odd)) + text[at:]
    elif kind == "binary":
        return draw(st.binary(max_size=200))
    elif kind == "text":
        text = draw(st.text(max_size=100))
    elif kind == "deep":
        text += "deep: " + draw(st.sampled_from(["[", "{a: ", "- "])) * draw(st.sampled_from([10, 60, 5000]))
    elif kind == "laughs":
        width = draw(st.sampled_from([2, 10]))
        lines = ["a0: &a0 [1, 2]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * width)}]" for n in range(1, 30))]
        text = "\n".join(lines) + f"\n{draw(st.sampled_from(['name', 'trials', 'grid', 'trial']))}: *a29\n"
    elif kind == "large":
        text += "name: [" + "1, " * draw(st.sampled_from([1000, 150_000, 1_000_000])) + "]\n"
    elif kind == "twice":
        text += text
    return text.encode("utf-8", "surrogatepass")


@st.composite
def changes(draw: st.DrawFn, known: list[str]) -> list[str]:
    """`--set` arguments."""
    made = []
    for key in draw(st.lists(st.one_of(st.sampled_from(known), keys), max_size=3)):
        value = draw(nested)
        text = draw(
            st.sampled_from(
                [yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("...\n").strip(), str(value)]
            )
        )
        made.append(draw(st.sampled_from([f"{key}={text}"] * 9 + [f"{key}", f"={text}"])))
    return [part for setting in made for part in ("--set", setting)]


def answer(arguments: list[str]) -> str:
    """What a command says of its input; "" where it took it and would have started Ray or loaded torch.

    Fails where it raises anything else than the SystemExit of argparse, takes too long, or says what no user can read.
    """
    said, begun = io.StringIO(), time.process_time()
    status: Any = None
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            status = cli.main(arguments)
        except ModuleNotFoundError as error:
            if error.name not in ("ray", "torch"):
                raise
        except SystemExit as error:  # argparse takes what begins with "-" for an option
            status = error.code
            said.seek(0)
            said.truncate()
            said.write("error: usage")
    assert time.process_time() - begun < SECONDS
    if status is None:
        return ""
    assert status == 2, said.getvalue()
    lines = said.getvalue().splitlines()
    assert lines, arguments
    for line in lines:
        assert line.startswith("error: "), line
        assert len(line) < 1000, line
        assert "Input should" not in line and "Traceback" not in line, line
    return "\n".join(lines)


def fuzzed(examples: int, **strategies: Any) -> Any:
    """A test of so many examples, the same ones each time."""
    checks = [
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
        HealthCheck.filter_too_much,
    ]
    limits = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        suppress_health_check=checks,
        phases=[Phase.generate, Phase.shrink],
    )
    return lambda test: limits(given(**strategies)(test))


def launch(document: bytes, settings: list[str]) -> None:
    Path("odd.yaml").write_bytes(document)
    answer(["launch", "odd.yaml", *settings])
    shutil.rmtree("runs", ignore_errors=True)


def resume(document: bytes, settings: list[str]) -> None:
    run = runs.Run.create(Path("run"), "search", SMALL, 0)
    try:
        (run.path / "spec.yaml").write_bytes(document)
        answer(["resume", "run", *settings])
    finally:
        shutil.rmtree("run")


def train(document: bytes, settings: list[str]) -> None:
    Path("odd.yaml").write_bytes(document)
    answer(["train", "odd.yaml", *settings])
    shutil.rmtree("runs", ignore_errors=True)


def evaluate(settings: list[str]) -> None:
    Path("checkpoint").touch()
    answer(["evaluate", "checkpoint", *settings])


RETURNED = [
    "None", "3", "[1]", "'x'", "{1: 2}", "{None: 1}", "{'': 1}", "{'x' * 10**6: 1}", "{'optim.lr': 10**5000}",
    "{'optim.lr': float('nan')}",
    "{'optim.lr': object()}", "{'optim.lr.warmup': 10**400}", "{'method': 3}", 
    "{'method.name': ['a']}", "{'teacher': None}",
    "{'teacher.norm': 'emann'}", "{'teacher.momenta': {1: 2}}", "{'teacher.momenta': 'x' * 10**6}",
    "{'optim.lr': [[[[1]]]] * 10**4}",
    "{'optim.lr': trial.suggest_float('a', 2, 1)}", "{'optim.lr': trial.suggest_categorical('a', [])}",
    "{trial: 1}", "1 / 0",
    "[][trial]", "exec('def f(n): return f(n + 1)') or f(0)", "{'monitors': [['x'] * 10**4]}",
    "{'evaluation.knn.k': 3}", "{'a.b.c': {}}",
    "__import__('sys').exit(7)", "{'seed': 1, 'train.epochs': 2}", "{'views.crop_scale': (2, 1)}",
    "{'views.crop_scale': {1, 2}}",
]  # fmt: skip


@pytest.mark.parametrize("returned", RETURNED)
def test_whatever_a_space_returns_is_answered(returned: str) -> None:
    Path("search.yaml").write_text(yaml.safe_dump(SMALL))
    Path("mine.py").write_text(f"def suggest(trial):\n    return {returned}\n")
    said = answer(["launch", "search.yaml", "--set", "space=mine.py:suggest"])
    assert "mine.py" in said


@pytest.mark.parametrize(
    "known",
    ["{}", "[{1: 2}]", "[{'a': 1, 2: 3}]", "[{'lr': 'x' * 10**6}]", "[{'lr': 10**5000}]", "[{}] * 3 + [0]", "7"],
)
def test_whatever_a_space_knows_is_answered(known: str) -> None:
    Path("search.yaml").write_text(yaml.safe_dump(SMALL))
    Path("mine.py").write_text(
        f"KNOWN_GOOD = {known}\ndef suggest(trial):\n    return {{'optim.lr': trial.suggest_float('lr', 0, 1)}}\n"
    )
    assert "mine.py" in answer(["launch", "search.yaml", "--set", "space=mine.py"])


OF_A_SEARCH = {"document": documents(KEYS), "settings": changes(KEYS)}
OF_A_TRIAL = {"document": documents(TRIAL_KEYS), "settings": changes(TRIAL_KEYS)}
FEW = {"launch": (launch, OF_A_SEARCH, 80), "resume": (resume, OF_A_SEARCH, 20), "train": (train, OF_A_TRIAL, 30)}
MANY = {"launch": (launch, OF_A_SEARCH, 800), "resume": (resume, OF_A_SEARCH, 200), "train": (train, OF_A_TRIAL, 350)}


@pytest.mark.parametrize("command", list(FEW))
def test_whatever_is_in_a_file_is_answered(command: str) -> None:
    run, strategies, examples = FEW[command]
    fuzzed(examples, **strategies)(lambda **made: run(**made))()


def test_whatever_an_evaluation_is_set_to_is_answered() -> None:
    fuzzed(20, settings=changes(TRIAL_KEYS))(evaluate)()


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("command", list(MANY))
def test_whatever_is_in_many_files_is_answered(command: str) -> None:
    run, strategies, examples = MANY[command]
    fuzzed(examples, **strategies)(lambda **made: run(**made))()


@pytest.mark.long
def test_whatever_many_evaluations_are_set_to_is_answered() -> None:
    fuzzed(150, settings=changes(TRIAL_KEYS))(evaluate)()
