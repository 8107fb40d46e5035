"""A search as a command names it: a file with settings, or a run that goes on.

What defines the trials must not have changed since the launch.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from trainables.config import formats
from trainables.config.errors import UserError, nearest, shown_name
from trainables.config.settings import dotted_keys, flat, read_settings, read_yaml, with_values
from trainables.data import initial
from trainables.data.check import check_data
from tuner.plan import jobs, table
from tuner.plan.spec import SearchSpec, parse

CONTINUABLE = (
    "trials",
    "seeds",
    "address",
    "resources",
    "storage",
    "trial.data.root",
    "trial.data.download",
    "trial.data.loaders",
    "trial.init.path",
)
CONTINUABLE_ALONE = tuple(key for key in CONTINUABLE if key not in ("trials", "seeds", "storage"))  # of a full run
OF_NO_TRIAL = (
    *CONTINUABLE,
    "name",
    "paper",
    "trial.train.checkpoint_minutes",
    "trial.train.checkpoint_steps",
    "trial.train.keep_checkpoints",
)  # keys that make no trial another
ABSENT = object()


def read(path: Path, settings: Iterable[str]) -> SearchSpec:
    """A search's file as `described` gives it, whose data are there.

    Relative data folders and files of spaces are taken from the working folder.

    Raises:
        UserError: the file or a setting is at fault, or the data are missing.
    """
    return settled(described(path, settings))


def described(path: Path, settings: Iterable[str], written: int = formats.FORMAT) -> SearchSpec:
    """A search's file with settings from the command line.

    Keys of `trial` that are set so count in every point of a table.

    Args:
        path: of the file.
        settings: of the command line, such as "trials=40".
        written: the format of the file; that of an earlier version gets the values by which that version trained.

    Raises:
        UserError: the file or a setting is at fault.
    """
    values = read_settings(settings)
    if "trial" in values:
        rule = "would replace all that the file says of its trials; set keys of it, such as trial.train.epochs=20"
        raise UserError(f"--set trial: {rule}")
    stated = formats.search_as_written(read_yaml(path), written)
    content = {"address": jobs.default_address(), **with_values(stated, values, SearchSpec)}
    return parse(table.set_by_hand(content, values))


def continued(
    content: Mapping[str, object], settings: Iterable[str], continuable: tuple[str, ...] = CONTINUABLE
) -> SearchSpec:
    """The spec of an interrupted run, with what may change without its trials becoming others.

    Args:
        content: nested values of its spec.
        settings: of the command line.
        continuable: keys and sections that may change.

    Raises:
        UserError: another key is to be changed, or fewer trials are wanted than before.
    """
    changes, before = read_settings(settings), parse(content)
    if before.address == "local":  # it was launched elsewhere
        changes.setdefault("address", jobs.default_address())
    if odd := [key for key in changes if not key.startswith(continuable)]:
        raise UserError(f"--set {odd[0]}: a run that goes on keeps it; can be changed: {', '.join(continuable)}")
    after = settled(parse(with_values(before.plain(), changes, SearchSpec)))
    key = "seeds" if before.table else "trials"
    if (wanted := getattr(after, key)) < (had := getattr(before, key)):
        raise UserError(f"{key} = {wanted}: the search was launched with {had}, and can only get more")
    return after


def changes_while_running(
    content: Mapping[str, object], settings: Iterable[str], changeable: Sequence[str]
) -> dict[str, object]:
    """Values that a search can take over while it runs, by key.

    Args:
        content: nested values of its spec.
        settings: of the command line, such as "resources.max_slots=4"; "none" removes a limit, as null does.
        changeable: keys that may change.

    Raises:
        UserError: another key is to be changed, or a value breaks the rule of its key.
    """
    values = {key: None if value == "none" else value for key, value in read_settings(settings).items()}
    if odd := [key for key in values if key not in changeable]:
        if odd[0] not in dotted_keys(SearchSpec):
            raise UserError(f"{shown_name(odd[0])}: unknown key{nearest(odd[0], changeable)}")
        raise UserError(f"{odd[0]}: cannot change while a search runs; can be changed: {', '.join(changeable)}")
    changed(parse(content), values)
    return values


def changed(spec: SearchSpec, values: Mapping[str, object]) -> SearchSpec:
    """The spec with other values of dotted keys.

    Raises:
        UserError: a value breaks the rule of its key.
    """
    return parse(with_values(spec.plain(), values, SearchSpec))


def require_same(launched: Mapping[str, object], spec: SearchSpec) -> None:
    """Compares a search with what it was launched with; a key that is newer than the launch is passed over.

    Args:
        launched: nested values of the spec, as they were at the launch.
        spec: as it is now.

    Raises:
        UserError: a key that makes a trial what it is has changed; a line for each.
    """
    rule = "at the launch; trials of both cannot be compared, so put it back"
    if changed := list(changes(launched, spec)):
        raise UserError("\n".join(f"{key} = {after!r}: was {before!r} {rule}" for key, before, after in changed))


def changes(before: Mapping[str, object], spec: SearchSpec) -> Iterator[tuple[str, object, object]]:
    """Yields the keys that make a trial what it is and that have another value than before.

    A key that `before` lacks is passed over: it may be newer.

    Args:
        before: nested values of an earlier spec, or some of its sections.
        spec: as it is now.

    Yields:
        The dotted key, its value in `before`, and its value in `spec`.
    """
    now = spec.plain()
    for key in dotted_keys(SearchSpec):
        values = [_value(before, key), _value(now, key)]
        if ABSENT in values or key.startswith(OF_NO_TRIAL):
            continue
        old, new = (flat(value, f"{key}.") if isinstance(value, Mapping) else {key: value} for value in values)
        for part in sorted(old.keys() | new.keys()):
            if old.get(part) != new.get(part):
                yield part, old.get(part), new.get(part)


def _value(nested: object, dotted: str) -> object:
    """The value of a dotted key; None where a section that could hold it is None, ABSENT where there is no such key."""
    for part in dotted.split("."):
        if nested is None:
            return None
        if not isinstance(nested, Mapping) or part not in nested:
            return ABSENT
        nested = nested[part]
    return nested


def spec_key(error: str) -> str:
    """An error of a trial's data or length with its key as a search spells it."""
    return f"trial.{error}" if error.startswith(("data.", "init.", "train.")) else error


def settled(spec: SearchSpec) -> SearchSpec:
    """The spec of which all files are there: its data folder as an absolute path, for workers have another working
    folder, and the hash of each file that trials begin with.

    Raises:
        UserError: the data or such a file is missing, or has another content than at the launch.
    """
    root, values = spec.trial.data.root, dict[str, object]()
    try:
        jobs.require_inputs_kept(spec.trial)
        check_data(spec.trial)
        if found := initial.content(spec.trial.init):
            values["trial.init.sha256"] = found
    except UserError as error:
        raise UserError(spec_key(str(error))) from None
    if root is not None:
        values["trial.data.root"] = str(root.absolute())
    points = {label: _begun_with(label, point, spec) for label, point in spec.table.items()}
    if points != spec.table:
        values |= {"points": points, "grid": None}
    return parse(with_values(spec.plain(), values, SearchSpec)) if values else spec


def _begun_with(label: str, point: table.Values, spec: SearchSpec) -> table.Values:
    try:
        return table.begun_with(point, spec.trial.method.name)
    except UserError as error:
        raise UserError(f"point '{label}': {error}") from None
