"""Malformed searches, made of valid ones by hypothesis, through `tuner launch` in one process, with no fake of Ray.

`python -m tests.tuner.plan.malformed COUNT` runs them in the working folder until so many have been refused (an odd
value may be a valid one), and prints a JSON line of what it saw.
Each one is launched up to the point at which Ray would be started. It is run as a process of its own, so that it can
tell whether Ray or torch was imported by any of them.
"""

import contextlib
import io
import json
import shutil
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from trainables.config.settings import dotted_keys, section_keys
from tuner.commands import main as cli
from tuner.commands import searching
from tuner.plan import space as spaces
from tuner.plan.spec import SearchSpec

ROOT = Path(__file__).parents[3]
SECONDS = 5.0  # of this process's own time, for each
PATIENCE = 1.0  # seconds for a space, in place of 10
SECTIONS = sorted({*section_keys(SearchSpec)} - {""})
KEYS = sorted({*dotted_keys(SearchSpec)} - {"address"})  # an address that may be right is looked for
LAUGHS = "\n".join(["a0: &a0 [x, x]", *(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 12))])

WRONG: list[Any] = [
    None, True, -1, -(10**12), 10**9, 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf"), float("-inf"), "", "many",
    "x" * 10_000, "\u202e\U0001f4a9", "²", [], [1, 2], [[[]]], {}, {"a": 1}, [{"a": None}], "2:8", "8-2", "2..8", 128,
    "10 minutes", "-1 epochs", "1e999 epochs", "200 %", "..", "/", "~nobody-there", "/proc/self/mem", "trials",
]  # fmt: skip
SPACES = {
    "missing module": "import no_such_module_at_all\n",
    "no suggest": "def propose(trial):\n    return {}\n",
    "no function": "suggest = 3\n",
    "syntax": "def suggest(trial:\n",
    "raises": "def suggest(trial):\n    raise RuntimeError('on purpose')\n",
    "exits": "import sys\nsys.exit(3)\n",
    "returns a list": "def suggest(trial):\n    return ['optim.lr']\n",
    "returns an unknown key": "def suggest(trial):\n    return {'teacher.momentun': 1}\n",
    "returns an object": "def suggest(trial):\n    return {'optim.lr': object()}\n",
    "hangs": "def suggest(trial):\n    while True:\n        pass\n",
    "hangs as it is imported": "import time\nwhile True:\n    time.sleep(0.01)\n",
    "recurses": "def suggest(trial):\n    return suggest(trial)\n",
    "known points are none": "KNOWN_GOOD = 3\ndef suggest(trial):\n    return {}\n",
    "empty": "",
    "binary": "\x00\x01",
}


@dataclass(frozen=True)
class Malformed:
    """A search that is at fault, mostly.

    Attributes:
        kind: of the mutation.
        document: the bytes of the file.
        names: an error names one of them; nothing where the whole file is at fault, which is named then.
        surely: whether it cannot be valid.
    """

    kind: str
    document: bytes
    names: tuple[str, ...]
    surely: bool = False


def bases() -> dict[str, dict[str, Any]]:
    """Valid searches by the names of their files, on data that are always there."""
    made = {}
    for path in sorted([*ROOT.glob("examples/*.yaml"), *ROOT.glob("search_spaces/papers/*.yaml")]):
        content = yaml.safe_load(path.read_text())
        if path.name == "trial.yaml":
            content = {"trial": content}
        content = {**content, "trial": {**content.get("trial", {}), "data": "digits"}}
        content.pop("address", None)
        if reached(yaml.safe_dump(content, sort_keys=False).encode()) is None:
            made[path.name] = content
    return made


def put(content: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    """A copy of nested values in which a dotted key is set; short forms on the way give way to sections."""
    name, _, rest = key.partition(".")
    if not rest:
        return {**content, name: value}
    inner = content.get(name)
    return {**content, name: put(inner if isinstance(inner, dict) else {}, rest, value)}


def proposed(content: dict[str, Any]) -> dict[str, Any]:
    """A search without what only a table has, so that a space may propose."""
    return {key: value for key, value in content.items() if key not in ("points", "grid", "seeds", "paper")}


def named_by(key: str) -> tuple[str, ...]:
    """What may name a key: itself, its section, and its last part, which may be set by a short form."""
    section, _, last = key.rpartition(".")
    # where a table goes, a space proposes
    instead = ("space", "point") if key in ("points", "grid") else ()
    return tuple(name for name in (key, section, section.removeprefix("trial."), last, *instead) if name)


def text_of(content: object) -> bytes:
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True).encode("utf-8", "surrogatepass")


@st.composite
def malformed(draw: st.DrawFn, valid: dict[str, dict[str, Any]]) -> Malformed:
    """One mutation of a valid search."""
    content = valid[draw(st.sampled_from(sorted(valid)))]
    kind: Callable[[st.DrawFn, dict[str, Any]], Malformed] = draw(
        st.sampled_from(
            [_value] * 8 + [_unknown] * 3 + [_section] * 3 + [_workers, _name, _space, _space, _folder, _text, _text]
        )
    )
    return kind(draw, content)


def _value(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    key = draw(st.sampled_from(KEYS))
    value = draw(st.one_of(st.sampled_from(WRONG), st.floats(), st.integers(), st.text(max_size=20)))
    return Malformed("value", text_of(put(content, key, value)), named_by(key))


def _unknown(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    key = draw(st.sampled_from(KEYS))
    at = draw(st.integers(0, len(key.rpartition(".")[2]) - 1))
    section, dot, last = key.rpartition(".")
    odds = [last[:at] + last[at + 1 :] + "_", last + "s", last.upper(), "é" + last, "x" * 5000, "0"]
    odd = draw(st.sampled_from([odd for odd in odds if section + dot + odd not in KEYS]))  # `seed` + `s` is a key
    return Malformed("unknown key", text_of(put(content, section + dot + odd, 1)), (odd, section, "characters"), True)


def _section(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    key = draw(st.sampled_from([*SECTIONS, "points", "grid"]))
    value = draw(
        st.sampled_from([[], [1], [["a", 1]], 3, float("nan"), "²", True, {"a": {"b": {"c": [1]}}}, {1: 2}, {None: 1}])
    )
    return Malformed("section", text_of(put(content, key, value)), named_by(key))


def _workers(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    odd = st.sampled_from(
        ["8-2", "2..8", "2 to 8", "0-4", "-", "1-", "2-200000", 0, -1, 1.5, [2, 8], {"min": 2}, "2-8-16"]
    )
    key, values = draw(
        st.sampled_from([("workers", odd), ("patience", st.sampled_from([10, "10", "1 week", "5s", "-3m"]))])
    )
    return Malformed(key, text_of(put(content, f"resources.{key}", draw(values))), (f"resources.{key}",), True)


def _name(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    odd = ["..", ".", "-x", "a/b", "a b", "", "n" * 101, "\u202e", "a\nb", 3, None, ["x"], "~", "x\x7f"]
    return Malformed("name", text_of({**content, "name": draw(st.sampled_from(odd))}), ("name",), True)


def _space(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    kind = draw(st.sampled_from(sorted(SPACES)))
    Path("odd_space.py").write_text(SPACES[kind])
    content = proposed(content)
    return Malformed(f"space: {kind}", text_of({**content, "space": "odd_space.py:suggest"}), ("odd_space.py",), True)


def _folder(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    Path("folder").mkdir(exist_ok=True)
    key, value = draw(
        st.sampled_from(
            [
                ("space", "folder"),
                ("space", "folder/x.py:suggest"),
                ("space", "nowhere.py"),
                ("trial.data", {"name": "imagefolder", "root": "folder"}),
                ("trial.data", {"name": "parquet", "root": "search.yaml"}),
                ("trial.data", {"name": "cifar10", "root": "nowhere"}),
                ("trial.data", {"name": "digits", "labels": {"file": "folder"}}),
                ("trial.data.classes", "folder"),
            ]
        )
    )
    if key == "space":
        content = proposed(content)
    return Malformed("folder", text_of(put(content, key, value)), named_by(key), True)


def _text(draw: st.DrawFn, content: dict[str, Any]) -> Malformed:
    text = text_of(content).decode()
    first = next(iter(content))
    made: dict[str, str | bytes] = {
        "empty": "",
        "comment": "# nothing\n",
        "list": f"- {first}\n",
        "scalar": "3",
        "text": "just words",
        "duplicate": f"{text}\n{first}: 1\n",
        "anchor in itself": f"{text}\nextra: &a [*a]\n",
        "unknown alias": f"{text}\nextra: *nowhere\n",
        "laughs": f"{LAUGHS}\n{text}",
        "deep": f"{text}\nextra: {'[' * 3000}",
        "deep and closed": f"{text}\nextra: {'[' * 200}{']' * 200}\n",
        "long text": f"{text}\nextra: {'x' * 10_000}\n",
        "many digits": f"{text}\nextra: {'9' * 2000}\n",
        "a tag of Python": f"{text}\nextra: !!python/object/apply:os.system ['true']\n",
        "two documents": f"{text}\n---\n{text}",
        "tabs": text.replace("  ", "\t") + "\n\tx: 1",
        "cut": text[: draw(st.integers(1, len(text)))] + "\n'",
        "not UTF-8": text.encode() + b"\xff\xfe",
        "null": text.encode() + b"\x00",
        "binary": draw(st.binary(min_size=1, max_size=50)) + b"\x00",
        "large": f"{text}\nextra: [{'1, ' * 250_000}]\n",
    }
    kind = draw(st.sampled_from(sorted(made)))
    document = made[kind]
    return Malformed(f"text: {kind}", document.encode() if isinstance(document, str) else document, (), True)


def reached(document: bytes) -> str | None:
    """What `tuner launch` says of a file; None where it would start Ray now.

    Raises:
        AssertionError: it ends otherwise than an error of the user ends.
    """
    Path("search.yaml").write_bytes(document)
    said, out, begun, would = io.StringIO(), io.StringIO(), time.process_time(), []
    searching.finish = lambda *_: would.append(1) or 0  # type: ignore[assignment, func-returns-value]
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(out):
        status = cli.main(["launch", "search.yaml"])
    shutil.rmtree("runs", ignore_errors=True)
    took, lines = time.process_time() - begun, said.getvalue().splitlines()
    assert took < SECONDS, f"took {took:.1f} s"
    if would:
        assert status == 0 and not lines, said.getvalue()
        return None
    assert status == 2 and lines, (status, said.getvalue())
    for line in lines:
        assert line.startswith("error: ") and len(line) < 1000, line
        assert "Traceback" not in line and "Input should" not in line and line.isprintable(), line
    return "\n".join(lines)


def run(count: int) -> dict[str, Any]:
    """Launches malformed searches until so many have been refused; returns what was seen."""
    spaces.PATIENCE = PATIENCE
    valid = bases()
    refused: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    wrong: list[str] = []
    longest = 0.0

    def of(case: Malformed) -> str:
        return f"\n{case.document[:3000].decode(errors='replace')}"

    @settings(
        max_examples=count + count // 5,
        deadline=None,  # this runs outside of pytest, without tests/conftest.py
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=malformed(valid))
    def launch(case: Malformed) -> None:
        nonlocal longest
        if refused.total() == count:
            return
        begun = time.process_time()
        try:
            said = reached(case.document)
        except (Exception, SystemExit) as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            wrong.append(
                f"{case.kind}: {type(error).__name__}: {error} ({last.filename}, line {last.lineno}){of(case)}"
            )
            return
        longest = max(longest, time.process_time() - begun)
        if said is None:
            accepted[case.kind] += 1
            wrong.extend([f"{case.kind}: was taken{of(case)}"] if case.surely else [])
            return
        refused[case.kind.partition(":")[0]] += 1
        if "search.yaml: line " not in said and not any(name in said for name in case.names or ("search.yaml",)):
            wrong.append(f"{case.kind}: none of {case.names} in: {said[:1000]}{of(case)}")

    launch()
    slow = sorted({name.split(".")[0] for name in sys.modules} & {"ray", "torch"})
    assert not wrong, f"{len(wrong)} went wrong:\n" + "\n".join(wrong[:10])
    return {
        "bases": len(valid),
        "refused": refused,
        "accepted": accepted,
        "longest": round(longest, 2),
        "imported": slow,
    }


if __name__ == "__main__":
    print(json.dumps(run(int(sys.argv[1]))))
