"""Nested values as dotted keys: read from YAML and from the command line, set, and laid flat."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from trainables.errors import UserError, nearest


def section_keys(model: type[BaseModel], name: str = "") -> dict[str, list[str]]:
    """For each section's dotted name ("" is the top) the keys that it has."""
    keys = {name: list(model.model_fields)}
    for field, info in model.model_fields.items():
        if isinstance(info.annotation, type) and issubclass(info.annotation, BaseModel):
            keys |= section_keys(info.annotation, f"{name}.{field}" if name else field)
    return keys


def dotted_keys(model: type[BaseModel]) -> list[str]:
    """Every key that holds a value, such as "teacher.momentum.base"."""
    sections = section_keys(model)
    every = [f"{section}.{key}" if section else key for section, keys in sections.items() for key in keys]
    return [key for key in every if key not in sections]


def with_values(nested: Mapping[str, Any], values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """A copy of `nested` in which each dotted key of `values` is set.

    Raises:
        UserError: a dotted key that `model` lacks, with the nearest one that it has.
    """
    known, result = set(dotted_keys(model)) | set(section_keys(model)) - {""}, {**nested}
    for dotted, value in values.items():
        if dotted not in known:
            raise UserError(f"{dotted}: unknown key{nearest(dotted, known)}")
        at, (*path, last) = result, dotted.split(".")
        for part in path:
            if not isinstance(at.get(part) or {}, Mapping):
                raise UserError(f"{part} = {at[part]!r}: must hold keys, for {dotted} is to be set")
            at[part] = {**(at.get(part) or {})}
            at = at[part]
        at[last] = value
    return result


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return values


def read_settings(settings: Iterable[str]) -> dict[str, Any]:
    """`["a.b=c"]` from the command line as `{"a.b": c}`, each value read as YAML.

    Raises:
        UserError: a setting without "=", or whose value is no YAML.
    """
    values = {}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or not key:
            raise UserError(f"--set {setting}: must read key=value, such as train.epochs=20")
        try:
            values[key.strip()] = yaml.safe_load(text)
        except yaml.YAMLError:
            raise UserError(f"--set {setting}: the value is not valid YAML") from None
    return values


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        UserError: the file is missing, is no YAML or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or 'it is not text'})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        raise UserError(f"{path}: not valid YAML{f', line {mark.line + 1}' if mark else ''}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: must hold keys and values")
    return content
