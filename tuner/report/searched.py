"""What a search varies: the columns by which TensorBoard compares its trials, and short names of trials."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence

import optuna
from optuna.trial import FrozenTrial

from trainables.config import trial as c
from trainables.config.settings import flat
from tuner.plan import points
from tuner.plan.space import REHEARSALS, Space
from tuner.plan.spec import SearchSpec
from tuner.report.summaries import Column, Fact, Facts, Kind
from tuner.report.wording import brief, title

LONGEST = 48  # characters of a trial's name
UNSAFE = r"[^\w .,+=()-]+"  # in the name of a folder


class Searched:
    """What differs between the trials of a search.

    Columns are in the order in which a space asks for values, or in which the points of a table name keys. The space is
    rehearsed to learn its order, so the columns are known before the first trial, and are the same in a resume. Columns
    that only trials show follow, in the order of the trials.

    Args:
        spec: of the search.
        space: proposes the trials.
        trials: those that were asked already.
    """

    def __init__(self, spec: SearchSpec, space: Space | None, trials: Sequence[FrozenTrial]):
        self._table, self._base = spec.table, flat(spec.trial.plain())
        if self._table:
            rows = [self._all(label, {}, config) for label, config in points.configs(spec).items()]
            told: list[Facts] = []
        else:
            rows = [_plain(flat(values)) for values in _rehearsed(space, spec.trial)] if space is not None else []
            told = [_plain(flat(trial.user_attrs["values"])) for trial in trials]
        every = [*rows, *told]
        self.columns = [
            Column(place, key, title(key), _kind(row[key] for row in every if key in row))
            for place, key in enumerate(self._keys(rows, told))
        ]

    def facts(self, point: str | None, values: Mapping[str, object], config: c.TrialConfig) -> Facts:
        """What sets a trial apart, by the keys of the columns; those that it lacks are left out.

        Args:
            point: of a table, None where a space proposed the values.
            values: that were proposed, by dotted key.
            config: of the trial.
        """
        every = self._all(point, values, config)
        return {column.key: every[column.key] for column in self.columns if column.key in every}

    def run_name(self, key: str, facts: Facts, config: c.TrialConfig) -> str:
        """A trial's key, and in brief how it differs from what trials have in common: "0003 sts p 0.7 momentum".

        Safe as the name of a folder, and no longer than `LONGEST`.
        """
        if "point" in facts:
            phrases = [*str(facts["point"]).split(), f"seed {facts['seed']}"]
        else:
            own = flat(config.plain())
            phrases = _phrases({name: value for name, value in facts.items() if self._tells(name, value, own)}) or [
                "default"
            ]
        text = key
        for phrase in phrases:
            longer = f"{text} {re.sub(UNSAFE, '-', phrase[: LONGEST - len(key) - 1])}"
            if len(longer) > LONGEST:
                break
            text = longer
        return text.rstrip(" .")

    def _all(self, point: str | None, values: Mapping[str, object], config: c.TrialConfig) -> Facts:
        if point is None:
            return _plain(flat(values))
        named = list(dict.fromkeys(key for values in self._table.values() for key in flat(values)))
        whole = flat(config.plain())
        first: dict[str, Fact] = {"point": point, "seed": config.seed}
        return first | _plain({key: whole[key] for name in named for key in whole if _below(key, name)})

    def _keys(self, rows: Sequence[Facts], told: Sequence[Facts]) -> list[str]:
        """Keys of the columns: those with more than one value; all keys where there is none of these."""
        order, known = _merged(rows), {}
        for key in order:
            # in a table the lack of a key counts as a value
            known[key] = {repr(row.get(key)) for row in rows if self._table or key in row}
        keys = [key for key in order if len(known[key]) > 1 or key in ("point", "seed")]
        keys += [key for row in told for key in row if repr(row[key]) not in known.get(key, ())]
        return list(dict.fromkeys(keys)) or order

    def _tells(self, name: str, value: Fact, own: Mapping[str, object]) -> bool:
        """Whether a trial has another value of a key than the others by default.

        A number also does where its section is of another kind, such as the p of "sts" where the others have "tma".
        """
        sections = [name[:dot] for dot in range(len(name)) if name[dot] == "."] if isinstance(value, float) else []
        keys = [key for key in {**own, **self._base} if _below(key, name)] + [f"{section}.kind" for section in sections]
        return any(brief(own.get(key)) != brief(self._base.get(key)) for key in keys)


def _phrases(facts: Facts) -> list[str]:
    """Short phrases for facts.

    A text stands alone, unless it is the kind of a schedule. A number stands behind the name of its key or schedule.
    """
    phrases: dict[str, str] = {}
    for key, value in facts.items():
        section, end = key.split(".")[-2:] if "." in key else ("", key)
        schedule = end in ("base", "final") or (end == "kind" and section not in ("smoothing", "norm"))
        if isinstance(value, str) and not schedule:
            phrases[key] = value
        else:
            name = key.rpartition(".")[0] if schedule else key
            phrases[name] = f"{phrases.get(name, section if schedule else end)} {brief(value)}"
    return list(phrases.values())


def _rehearsed(space: Space, base: c.TrialConfig) -> Iterator[dict[str, object]]:
    """Proposals of a space: its known good ones, and random ones that are the same each time."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(0))
    fixed = [optuna.trial.FixedTrial(dict(known)) for known in space.known_good]
    for trial in [*fixed, *(study.ask() for _ in range(REHEARSALS))]:
        yield space.propose(trial, base)[0]  # type: ignore[arg-type]


def _merged(rows: Iterable[Iterable[str]]) -> list[str]:
    """All keys of the rows in one order: a new key of a row comes behind the key that stands before it in that row."""
    order: list[str] = []
    for row in rows:
        place = 0
        for key in row:
            if key not in order:
                order.insert(place, key)
            place = order.index(key) + 1
    return order


def _below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


def _plain(values: Mapping[str, object]) -> dict[str, Fact]:
    """The values without those that are None; a list becomes a text."""
    return {key: _fact(value) for key, value in values.items() if value is not None}


def _fact(value: object) -> Fact:
    if isinstance(value, list | tuple):
        return "+".join(map(str, value))
    return value if isinstance(value, bool | int | float | str) else str(value)


def _kind(values: Iterable[Fact]) -> Kind:
    """The kind of a column; of mixed values it is text."""
    kinds: set[Kind] = {
        "truth" if isinstance(v, bool) else "number" if isinstance(v, int | float) else "text" for v in values
    }
    return kinds.pop() if len(kinds) == 1 else "text"
