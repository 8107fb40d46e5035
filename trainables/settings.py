"""Nested values as dotted keys: read from YAML and from the command line, set, and laid flat."""

import argparse
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo

from trainables.errors import UserError, explain, nearest

Model = TypeVar("Model", bound=BaseModel)
Short = Callable[[Any], dict[str, Any]]


def validated(model: type[Model], given: Mapping[str, Any]) -> Model:
    """Nested values as a model.

    Raises:
        UserError: a line for each fault, with key, value, rule and the nearest valid name.
    """
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise explain(error, section_keys(model)) from None


def section_keys(model: type[BaseModel], name: str = "") -> dict[str, list[str]]:
    """For each section's dotted name ("" is the top) the keys that it has."""
    keys = {name: list(model.model_fields)}
    for field, info in model.model_fields.items():
        for section in _sections(info):
            for inner, names in section_keys(section, f"{name}.{field}" if name else field).items():
                keys[inner] = list(dict.fromkeys(keys.get(inner, []) + names))
    return keys


def _sections(info: FieldInfo) -> list[type[BaseModel]]:
    """The sections that a field may hold: one, or several to choose from, as of methods."""
    kinds = get_args(info.annotation) if get_origin(info.annotation) in (Union, UnionType) else (info.annotation,)
    bare = [get_args(kind)[0] if get_origin(kind) is Annotated else kind for kind in kinds]
    return [kind for kind in bare if isinstance(kind, type) and issubclass(kind, BaseModel)]


def dotted_keys(model: type[BaseModel]) -> list[str]:
    """Every key that holds a value, such as "teacher.momentum.base"."""
    sections = section_keys(model)
    every = [f"{section}.{key}" if section else key for section, keys in sections.items() for key in keys]
    return [key for key in every if key not in sections]


def described_keys(model: type[BaseModel], name: str = "", default: BaseModel | None = None) -> list[tuple[str, str, str]]:
    """Every key that holds a value: its dotted name, its default and what it may be.

    Args:
        model: that has the keys.
        name: dotted, of the model.
        default: what the model is by default; its own defaults where it is None.
    """
    rows: list[tuple[str, str, str]] = []
    for field, info in model.model_fields.items():
        dotted = f"{name}.{field}" if name else field
        value = getattr(default, field) if default is not None else info.get_default(call_default_factory=True, validated_data={})
        if sections := _sections(info):
            for section in sections:
                own = value if type(value) is section else None
                rows += described_keys(section, dotted, own)
        else:
            rows.append((dotted, _as_yaml(value), _rule(info)))
    return rows


def _as_yaml(value: Any) -> str:
    return yaml.safe_dump(list(value) if isinstance(value, tuple) else value, default_flow_style=True).removesuffix("...\n").strip()


def _rule(info: FieldInfo) -> str:
    schema = TypeAdapter(Annotated[info.annotation, info]).json_schema()  # type: ignore[arg-type]
    return " or ".join(_words(kind) for kind in schema.get("anyOf", [schema]))


def _words(schema: Mapping[str, Any]) -> str:
    """What a JSON schema of one kind allows, in a few words."""
    if "enum" in schema:
        return " | ".join(schema["enum"])
    bounds = [(">=", "minimum"), (">", "exclusiveMinimum"), ("<=", "maximum"), ("<", "exclusiveMaximum")]
    limits = " and ".join(f"{sign} {schema[word]:g}" for sign, word in bounds if word in schema)
    if "prefixItems" in schema:
        return f"[{', '.join(_words(item) for item in schema['prefixItems'])}]"
    kind = {"null": "nothing", "array": "list", "boolean": "true | false", "string": schema.get("format", "text")}
    if "$ref" in schema or "additionalProperties" in schema:
        return "keys and values"
    return f"{kind.get(schema.get('type', ''), schema.get('type', 'text'))} {limits}".strip()


def whole_number(text: str) -> int:
    """A command-line argument that counts something."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}': must be a whole number of at least 1")
    return number


def short_keys(model: type[BaseModel], name: str = "") -> dict[str, Short]:
    """Sections that a plain value may stand for, such as a schedule, each with a function to the keys that such a value sets."""
    keys = {name: model.short} if hasattr(model, "short") else {}
    for field, info in model.model_fields.items():
        for section in _sections(info):
            keys |= short_keys(section, f"{name}.{field}" if name else field)
    return keys


def merged(under: Mapping[str, Any], over: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Nested values in which those of `over` count above those of `under`, key by key."""
    return _merged(under, over, short_keys(model), "")


def _merged(under: Mapping[str, Any], over: Mapping[str, Any], short: Mapping[str, Short], name: str) -> dict[str, Any]:
    result = {**under}
    for key, value in over.items():
        held, dotted = under.get(key), f"{name}.{key}" if name else key
        if dotted in short:
            held, value = (short[dotted](v) if v is not None and not isinstance(v, Mapping) else v for v in (held, value))
        if isinstance(held, Mapping) and isinstance(value, Mapping):
            value = _merged(held, value, short, dotted)
        result[key] = value
    return result


def with_values(nested: Mapping[str, Any], values: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """A copy of `nested` in which each dotted key of `values` is set.

    Raises:
        UserError: a dotted key that `model` lacks, with the nearest one that it has.
    """
    known, short, result = set(dotted_keys(model)) | set(section_keys(model)) - {""}, short_keys(model), {**nested}
    for dotted, value in values.items():
        if dotted not in known:
            raise UserError(f"{dotted}: unknown key{nearest(dotted, known)}")
        at, (*path, last) = result, dotted.split(".")
        for depth, part in enumerate(path, start=1):
            at[part] = _held(at.get(part), ".".join(path[:depth]), dotted, short)
            at = at[part]
        if dotted in short and not isinstance(value, Mapping):
            value = _held(at.get(last), dotted, dotted, short) | short[dotted](value)
        at[last] = value
    return result


def _held(held: Any, section: str, dotted: str, short: Mapping[str, Short]) -> dict[str, Any]:
    """A copy of the keys that a section holds, where a plain value may stand for them; `dotted` is to be set in it."""
    if held is None or isinstance(held, Mapping):
        return {**(held or {})}
    if section not in short:
        raise UserError(f"{section} = {held!r}: must hold keys, for {dotted} is to be set")
    return short[section](held)


def settable_keys(model: type[BaseModel]) -> list[str]:
    """Every key that a plain value can be given to: those that hold one, and sections that one may stand for."""
    return [*dotted_keys(model), *short_keys(model)]


def flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested values by dotted key."""
    values: dict[str, Any] = {}
    for key, value in nested.items():
        values |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else {f"{prefix}{key}": value}
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
