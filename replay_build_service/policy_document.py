"""YAML that knows its lines: plain values, and where each of them stands. Nothing of ours may come in."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, cast

import yaml

Path = tuple[str | int, ...]
"""From the document's top to a value: keys, and numbers of list entries."""

MOST_CHARACTERS = 2_000_000
MOST_DEPTH = 20

_AS_WRITTEN = frozenset({"version", "banner", "text", "name"})
"""Values that are text whatever they look like: a version 1.10 is not 1.1."""


class NoDocument(Exception):
    """The text cannot be read. ``line`` counts from 1."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


class _Loader(yaml.SafeLoader):
    """Without dates: no value of ours is one."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in cast("dict[str, list[tuple[str, Any]]]", yaml.SafeLoader.yaml_implicit_resolvers).items()
}


@dataclass(frozen=True, slots=True)
class Document:
    """Plain values, and the line of each."""

    value: Any
    lines: Mapping[Path, int]

    def line_of(self, path: Path) -> int:
        """Of the value at that path, or of the nearest one above it."""
        while path and path not in self.lines:
            path = path[:-1]
        return self.lines.get(path, 1)


def read_document(text: str, defaults: tuple[str, str]) -> Document:
    """Read a document. ``defaults`` names a mapping at the top and another one, of mappings: whatever an entry of the latter does
    not say is as the former says, with its line.

    Raises `NoDocument`.
    """
    if len(text) > MOST_CHARACTERS:
        raise NoDocument(f"The file has {len(text)} characters, and at most {MOST_CHARACTERS} are read.")
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise NoDocument(
            "This is no text: it holds a control character.", text.count("\n", 0, error.position) + 1
        ) from error
    try:
        node = loader.get_single_node()
        if node is None:
            raise NoDocument("The file is empty.")
        _merge(node, *defaults)
        lines: dict[Path, int] = {}
        return Document(_plain(loader, node, (), lines), lines)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        told = (error.problem or error.context or "it cannot be read").strip().rstrip(".")
        raise NoDocument(f"This is no YAML: {told}.", mark.line + 1 if mark else 1) from error
    except (yaml.YAMLError, RecursionError) as error:
        raise NoDocument(f"This is no YAML that can be read: {type(error).__name__}.") from error
    finally:
        loader.dispose()


def _merge(node: yaml.Node, defaults: str, entries: str) -> None:
    """Give each entry the defaults' keys that it lacks."""
    given, among = _member(node, defaults), _member(node, entries)
    if not isinstance(among, yaml.MappingNode):
        return
    ahead = list(_pairs(given)) if isinstance(given, yaml.MappingNode) else []
    for number, (name, entry) in enumerate(_pairs(among)):
        if _is_null(entry):
            # A name alone: all as the defaults say.
            entry = yaml.MappingNode("tag:yaml.org,2002:map", [], entry.start_mark, entry.end_mark)
            among.value[number] = (name, entry)
        if isinstance(entry, yaml.MappingNode):
            known = {key.value for key, _ in _pairs(entry)}
            entry.value.extend((key, value) for key, value in ahead if key.value not in known)


def _is_null(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and node.tag == "tag:yaml.org,2002:null"


def _member(node: yaml.Node, name: str) -> yaml.Node | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((value for key, value in _pairs(node) if key.value == name), None)


def _pairs(node: yaml.MappingNode) -> Iterator[tuple[yaml.Node, yaml.Node]]:
    yield from cast("list[tuple[yaml.Node, yaml.Node]]", node.value)


def _plain(loader: _Loader, node: yaml.Node, path: Path, lines: dict[Path, int]) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(path, line)
    if len(path) > MOST_DEPTH:
        raise NoDocument("This is nested too deeply, or contains itself.", line)
    match node:
        case yaml.MappingNode():
            found: dict[Any, Any] = {}
            for key_node, value_node in _pairs(node):
                key = _key(key_node)
                if key in found:
                    first = lines[*path, key]
                    raise NoDocument(
                        f"“{key}” is here a second time; the first is in line {first}.", key_node.start_mark.line + 1
                    )
                lines[*path, key] = key_node.start_mark.line + 1
                found[key] = _plain(loader, value_node, (*path, key), lines)
            return found
        case yaml.SequenceNode():
            items = cast("list[yaml.Node]", node.value)
            return [_plain(loader, item, (*path, number), lines) for number, item in enumerate(items)]
        case yaml.ScalarNode():
            if path and path[-1] in _AS_WRITTEN and not _is_null(node):
                return str(node.value)
            try:
                return cast("object", loader.construct_object(node))
            except ValueError as error:
                raise NoDocument(f"“{node.value}” cannot be read as what it looks like.", line) from error
        case _:
            raise AssertionError("there are three kinds of nodes")


def _key(node: yaml.Node) -> str:
    if not isinstance(node, yaml.ScalarNode):
        raise NoDocument("A key is a word, not a list or a mapping.", node.start_mark.line + 1)
    return str(node.value)
