"""What `tuner keys` lists: every key of a configuration with its default, what it may be, and what it is.

A description is the text below a field of a section. A field that a section only gives another default has the text of
the section's base class. Texts are read from the source when they are asked for, so that validation costs nothing more.
"""

import ast
import functools
import inspect
import itertools
from collections.abc import Mapping
from typing import Annotated, Any, NamedTuple

import yaml
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from trainables.config.settings import sections_of


class Key(NamedTuple):
    """A key that a value can be given to, as `tuner keys` shows it."""

    name: str
    default: str
    rule: str
    description: str


def described_keys(model: type[BaseModel]) -> list[Key]:
    """Returns every key that can be set, in the order of the model.

    A key that several methods have is listed once, with what differs by method.
    """
    by_name: dict[str, list[tuple[str, Key]]] = {}
    for choice, key in _keys(model, "", None, ""):
        by_name.setdefault(key.name, []).append((choice, key))
    return [_joined(rows) for rows in by_name.values()]


def _keys(model: type[BaseModel], name: str, default: BaseModel | None, choice: str) -> list[tuple[str, Key]]:
    """Keys of a section, each with the name by which the section is chosen from several; "" where there is no choice.

    Args:
        model: the section.
        name: dotted, of the section.
        default: what the section is by default; its own defaults where it is None.
        choice: by which it was chosen.
    """
    rows: list[tuple[str, Key]] = []
    for field, info in model.model_fields.items():
        dotted = f"{name}.{field}" if name else field
        value = (
            getattr(default, field)
            if default is not None
            else info.get_default(call_default_factory=True, validated_data={})
        )
        sections = sections_of(info)
        for section in sections:
            of = str(section.model_fields["name"].default) if len(sections) > 1 else choice
            if getattr(section, "SHORT", ""):
                rows.append((of, _short(section, dotted, len(sections) > 1)))
            rows += _keys(section, dotted, value if type(value) is section else None, of)
        if not sections:
            default_text = value if choice and field == "name" else _as_yaml(value)
            rows.append((choice, Key(dotted, default_text, _rule(info), _description(model, field))))
    return rows


def _short(section: Any, dotted: str, chosen: bool) -> Key:
    """Returns the row of a section that a plain value may stand for."""
    *others, key_set = [
        f"{key}: {value}" if value else key for key, value in sorted(section.short("").items(), reverse=True)
    ]
    rule = f"short for {', '.join([key_set.removesuffix(': '), *others])}"
    return Key(
        dotted,
        "",
        rule,
        f"{dotted.rpartition('.')[2].capitalize()}, by its name." if chosen else _first(section.__doc__),
    )


def _joined(rows: list[tuple[str, Key]]) -> Key:
    """Returns one row for a key that several methods have."""
    first = rows[0][1]
    if len(rows) == 1 or (len({key for _, key in rows}) == 1 and rows[0][0] == ""):
        return first
    if first.name.endswith(".name"):
        return first._replace(rule=" | ".join(choice for choice, _ in rows))
    return Key(first.name, _by_choice(rows, 1), first.rule, _by_choice(rows, 3))


def _by_choice(rows: list[tuple[str, Key]], column: int) -> str:
    """Returns a column's text. Where it differs between methods, each text follows the names of its methods."""
    choices: dict[str, list[str]] = {}
    for choice, key in rows:
        choices.setdefault(key[column], []).append(choice)
    if len(choices) == 1:
        return next(iter(choices))
    if "" in choices:
        return next(iter(choices))
    return "; ".join(f"{', '.join(names)}: {text}" for text, names in choices.items())


def _as_yaml(value: Any) -> str:
    """Returns a default as YAML has it; "" where there is none."""
    if value is None or value is PydanticUndefined:
        return ""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).removesuffix("...\n").strip()


def _rule(info: FieldInfo) -> str:
    schema = TypeAdapter(Annotated[info.annotation, info]).json_schema()  # type: ignore[arg-type]
    if "enum" in schema:  # such as names that are found as files
        return _words(schema)
    return " or ".join(dict.fromkeys(_words(kind) for kind in schema.get("anyOf", [schema])))


def _words(schema: Mapping[str, Any]) -> str:
    """Returns in a few words what a JSON schema of one kind allows."""
    if "enum" in schema:
        return " | ".join(schema["enum"])
    if "const" in schema:
        return str(schema["const"])
    bounds = [(">=", "minimum"), (">", "exclusiveMinimum"), ("<=", "maximum"), ("<", "exclusiveMaximum")]
    limits = [f"{sign} {schema[word]:.15g}" for sign, word in bounds if word in schema]
    if {"minimum", "maximum"} <= schema.keys():
        limits = [f"from {schema['minimum']:.15g} to {schema['maximum']:.15g}"]
    entries = [f"at most {schema[word]} entries" for word in ("maxItems", "maxProperties") if word in schema]
    entries += [f"at most {schema['maxLength']} characters"] if "maxLength" in schema else []
    if "prefixItems" in schema:
        return f"[{', '.join(_words(item) for item in schema['prefixItems'])}]"
    kind = {"null": "nothing", "array": "list", "boolean": "true | false", "string": schema.get("format", "text")}
    text = (
        "keys and values" if "$ref" in schema or "additionalProperties" in schema else kind.get(schema.get("type", ""))
    )
    if isinstance(schema.get("items"), Mapping) and "enum" in schema["items"]:
        text = f"list of {_words(schema['items'])}"
    return ", ".join([f"{text or schema.get('type', 'text')} {' and '.join(limits)}".strip(), *entries])


def _description(model: type[BaseModel], field: str) -> str:
    """Returns the first paragraph of the text below a field; "" where there is none."""
    texts = (
        _texts(inspect.getmodule(kind)).get(f"{kind.__name__}.{field}")
        for kind in model.__mro__
        if issubclass(kind, BaseModel)
    )
    return _first(next((text for text in texts if text), ""))


def _first(text: str | None) -> str:
    """Returns the first paragraph on one line."""
    return " ".join((text or "").split("\n\n")[0].split()).replace("`", "")


@functools.cache
def _texts(module: Any) -> dict[str, str]:
    """Returns the texts below the fields of a module's classes, by "Class.field"."""
    texts: dict[str, str] = {}
    for node in ast.parse(inspect.getsource(module)).body:
        body = node.body if isinstance(node, ast.ClassDef) else []
        for statement, below in itertools.pairwise(body):
            if (
                isinstance(statement, ast.AnnAssign)
                and isinstance(statement.target, ast.Name)
                and isinstance(below, ast.Expr)
            ):
                assert isinstance(node, ast.ClassDef)
                texts[f"{node.name}.{statement.target.id}"] = str(ast.literal_eval(below.value))
    return texts
