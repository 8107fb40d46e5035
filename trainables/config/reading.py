"""Reads a user's YAML as plain values: no code, limited size, no duplicate keys."""

from typing import Any

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode

MOST_BYTES = 4_000_000  # of a file
MOST_VALUES = 200_000  # keys and values of a file, aliases counted as often as they are used
DEEPEST = 50  # levels of lists and keys inside of each other
LONGEST_TEXT = 4_096  # characters of a key or a value, as of a path
MOST_DIGITS = 300  # of a whole number

_MERGE = "tag:yaml.org,2002:merge"


class Fault(Exception):
    """What is wrong with a text, and in which line, counted from 1; 0 where no single line is at fault."""

    def __init__(self, rule: str, line: int = 0):
        super().__init__(f"line {line}: {rule}" if line else rule)
        self.rule = rule


class Broken(Fault):
    """The text is no YAML."""

    def __init__(self, error: Exception):
        mark, problem = getattr(error, "problem_mark", None), str(getattr(error, "problem", None) or "")
        super().__init__(
            f"not valid YAML{f', line {mark.line + 1}' if mark else ''}{f' ({problem[:80]})' if problem else ''}"
        )


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """A safe loader that names the line of a value that does not fit its tag, such as a date with month 13."""

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        try:
            value = super().construct_object(node, deep)
        except (ValueError, LookupError, AttributeError, TypeError, OverflowError):
            kind = node.tag.rpartition(":")[2]
            raise Fault(
                f"'{str(node.value)[:40]}' cannot be read as a value of type {kind}; put text in quotes", _line(node)
            ) from None
        if isinstance(value, int) and abs(value) >= 10**MOST_DIGITS:
            raise Fault(f"a number has at most {MOST_DIGITS} digits", _line(node))
        return value


def values(text: str) -> Any:
    """Returns the values of a YAML text.

    Raises:
        Fault: it is no YAML, exceeds a limit of this module, or has a duplicate key.
    """
    check_size(text)
    try:
        _check_nesting(text)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _check_nodes(node, loader)
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except (yaml.YAMLError, UnicodeError) as error:
        raise Broken(error) from None


def check_size(text: str | bytes) -> None:
    """Raises Fault where a text is too long to be read."""
    if len(text) > MOST_BYTES:
        raise Fault(f"is larger than {MOST_BYTES:,} bytes, which is the limit")


def _check_nesting(text: str) -> None:
    """Checks size and depth without recursion, so that later passes can recurse safely."""
    depth = count = 0
    for event in yaml.parse(text, Loader=_Loader):
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        count += not isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise Fault(f"is nested deeper than {DEEPEST} levels, which is the limit", _line(event))
        if count > MOST_VALUES:
            raise Fault(f"holds more than {MOST_VALUES:,} values, which is the limit", _line(event))


def _check_nodes(root: Node, loader: _Loader) -> None:
    """Raises Fault for an alias inside its own value, for aliases of too large values, and for duplicate keys."""
    done: dict[int, tuple[int, int]] = {}  # of a node: the values that it stands for, and its levels
    opened: set[int] = set()
    stack = [root]
    while stack:
        node = stack[-1]
        if id(node) in done:
            stack.pop()
        elif isinstance(node, ScalarNode):
            _check_text(node)
            done[id(node)] = 1, 0
        elif id(node) not in opened:
            opened.add(id(node))
            for child in _children(node):
                if id(child) in opened and id(child) not in done:
                    raise Fault("an alias stands for something that it is a part of", _line(child))
                if id(child) not in done:
                    stack.append(child)
        else:
            if isinstance(node, MappingNode):
                _check_keys(node, loader)
            below = [done[id(child)] for child in _children(node)]
            size, levels = 1 + sum(size for size, _ in below), 1 + max((levels for _, levels in below), default=0)
            if size > MOST_VALUES:
                raise Fault(f"stands for more than {MOST_VALUES:,} values, which is the limit", _line(node))
            if levels > DEEPEST:
                raise Fault(f"is nested deeper than {DEEPEST} levels, which is the limit", _line(node))
            done[id(node)] = size, levels


def _children(node: Node) -> list[Node]:
    return [part for pair in node.value for part in pair] if isinstance(node, MappingNode) else node.value


def _check_text(node: ScalarNode) -> None:
    if len(node.value) > LONGEST_TEXT:
        raise Fault(
            f"a key or value has at most {LONGEST_TEXT:,} characters, this one has {len(node.value):,}", _line(node)
        )
    if "\0" in node.value:
        raise Fault("a key or value must not hold a null character", _line(node))


def _check_keys(node: MappingNode, loader: _Loader) -> None:
    lines: dict[Any, int] = {}
    for key, _ in node.value:
        if isinstance(key, ScalarNode) and key.tag != _MERGE:
            name = loader.construct_object(key)
            if name in lines:
                first, again = lines[name], _line(key)
                where = f", in line {first} and in line {again}" if first != again else f" in line {first}"
                raise Fault(f"'{str(name)[:80]}' is there twice{where}")
            lines[name] = _line(key)


def _line(place: Node | yaml.Event) -> int:
    assert place.start_mark is not None
    return place.start_mark.line + 1
