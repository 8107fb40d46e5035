"""Nested values as dotted keys: read from YAML and from the command line, set, and laid flat."""

import argparse
import functools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from trainables.config import reading
from trainables.config.errors import UserError, explain, nearest, shown, shown_name

Model = TypeVar("Model", bound=BaseModel)
Short = Callable[[Any], dict[str, Any]]


def validated(model: type[Model], given: Mapping[str, Any]) -> Model:
    """Returns nested values as a model.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise explain(error, section_keys(model)) from None


@functools.cache
def section_keys(model: type[BaseModel], name: str = "") -> Mapping[str, list[str]]:
    """Returns the keys of each section by the section's dotted name ("" is the top)."""
    keys = {name: list(model.model_fields)}
    for field, info in model.model_fields.items():
        for section in sections_of(info):
            for inner, names in section_keys(section, f"{name}.{field}" if name else field).items():
                keys[inner] = list(dict.fromkeys(keys.get(inner, []) + names))
    return keys


def sections_of(info: FieldInfo) -> list[type[BaseModel]]:
    """Returns the sections that a field may hold: one, or several to choose from, such as those of methods."""
    kinds = get_args(info.annotation) if get_origin(info.annotation) in (Union, UnionType) else (info.annotation,)
    bare = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    return [kind for kind in bare if isinstance(kind, type) and issubclass(kind, BaseModel)]


@functools.cache
def _choices(model: type[BaseModel], name: str = "") -> frozenset[str]:
    """Returns the sections that are chosen from several by name, such as `method`."""
    choices: set[str] = set()
    for field, info in model.model_fields.items():
        dotted, sections = f"{name}.{field}" if name else field, sections_of(info)
        choices |= {dotted} if len(sections) > 1 else set()
        choices = choices.union(*(_choices(section, dotted) for section in sections))
    return frozenset(choices)


@functools.cache
def dotted_keys(model: type[BaseModel]) -> tuple[str, ...]:
    """Returns every key that holds a value, such as "teacher.momentum.base"."""
    sections = section_keys(model)
    every = [f"{section}.{key}" if section else key for section, keys in sections.items() for key in keys]
    return tuple(key for key in every if key not in sections)


def whole_number(text: str, most: int | None = None) -> int:
    """Reads a command-line argument that counts something, at most `most` of it."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1 or (most is not None and number > most):
        rule = "of at least 1" if most is None else f"from 1 to {most:,}"
        raise argparse.ArgumentTypeError(f"'{text}': must be a whole number {rule}")
    return number


@functools.cache
def short_keys(model: type[BaseModel], name: str = "") -> Mapping[str, Short]:
    """Returns the sections that a plain value may stand for, such as schedules.

    Each comes with a function that returns the keys that such a value sets.
    """
    keys: dict[str, Short] = {name: model.short} if getattr(model, "SHORT", "") else {}  # type: ignore[attr-defined]
    for field, info in model.model_fields.items():
        for section in sections_of(info):
            keys |= short_keys(section, f"{name}.{field}" if name else field)
    return keys


def merged(under: Mapping[str, Any], over: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Returns nested values in which those of `over` replace those of `under`, key by key."""
    return _merged(under, over, short_keys(model), "")


def _merged(under: Mapping[str, Any], over: Mapping[str, Any], short: Mapping[str, Short], name: str) -> dict[str, Any]:
    result = {**under}
    for key, value in over.items():
        held, dotted = under.get(key), f"{name}.{key}" if name else key
        if dotted in short:
            held, value = (
                short[dotted](v) if v is not None and not isinstance(v, Mapping) else v for v in (held, value)
            )
        if isinstance(held, Mapping) and isinstance(value, Mapping):
            value = _merged(held, value, short, dotted)
        result[key] = value
    return result


def with_values(nested: Mapping[str, Any], values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Returns a copy of `nested` in which each dotted key of `values` is set.

    A plain value for a section sets the keys that it stands for, and keeps the section's other keys. Another method,
    however, keeps no key of the method before.

    Raises:
        UserError: a dotted key that `model` lacks, with the nearest one that it has.
    """
    sections, short, result = section_keys(model), short_keys(model), {**nested}
    for dotted, value in values.items():
        if dotted not in dotted_keys(model) and dotted not in sections.keys() - {""}:
            raise UserError(
                f"{shown_name(dotted)}: unknown key{nearest(dotted, {*dotted_keys(model), *sections} - {''})}"
            )
        at, (*path, last) = result, dotted.split(".")
        for depth, part in enumerate(path, start=1):
            at[part] = _held(at.get(part), ".".join(path[:depth]), dotted, short)
            at = at[part]
        if dotted in short and value is not None and not isinstance(value, Mapping):
            held, keys = _held(at.get(last), dotted, dotted, short), short[dotted](value)
            another = dotted in _choices(model) and held.get("name") not in (None, value)
            value = keys if another else held | keys
        at[last] = value
    return result


def _held(held: Any, section: str, dotted: str, short: Mapping[str, Short]) -> dict[str, Any]:
    """Returns a copy of a section's keys, in which `dotted` is to be set; a plain value may stand for the section."""
    if held is None or isinstance(held, Mapping):
        return {**(held or {})}
    if section not in short:
        raise UserError(f"{section} = {shown(held)}: must hold keys, for {dotted} is to be set")
    return short[section](held)


def settable_keys(model: type[BaseModel]) -> list[str]:
    """Returns every key that takes a plain value: those that hold one, and sections with a short form."""
    return [*dotted_keys(model), *short_keys(model)]


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns nested values by dotted key."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
    return values


def read_settings(settings: Iterable[str]) -> dict[str, Any]:
    """Returns `["a.b=c"]` from the command line as `{"a.b": c}`, each value read as YAML.

    Raises:
        UserError: a setting has no "=", or its value is no YAML or exceeds a limit.
    """
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key.strip():
            raise UserError(f"--set {shown_name(setting)}: must read key=value, such as train.epochs=20")
        try:
            values[key.strip()] = reading.values(text)
        except reading.Broken:
            raise UserError(f"--set {shown_name(setting)}: the value is not valid YAML") from None
        except reading.Fault as fault:
            raise UserError(f"--set {shown_name(key)}: {fault.rule}") from None
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """Returns the mapping in a YAML file.

    Raises:
        UserError: the file is missing, is no YAML, holds no mapping, has a duplicate key, or exceeds a limit of
            `trainables.config.reading`.
    """
    try:
        with path.open("rb") as file:
            stored = file.read(reading.MOST_BYTES + 1)
        reading.check_size(stored)
        content = reading.values(stored.decode())
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not text"
        raise UserError(f"{path}: cannot be read ({why}); name a YAML file that can be read") from None
    except reading.Fault as fault:
        raise UserError(f"{path}: {fault}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values")
    return content
