"""The YAML of a suite: keys as they are written, none twice, and no values without end."""

from __future__ import annotations

from typing import Any

import yaml
from yaml.constructor import ConstructorError

from mlflow_exec.errors import ConfigError

_MAX_VALUES = 100_000
_MERGE = "tag:yaml.org,2002:merge"


def parsed(text: str, where: str) -> tuple[Any, dict[tuple[str, str], int]]:
    """Return what a text means, and the lines of the keys of its two outer levels.

    Keys are texts, as they are written: ``yes`` and ``on`` are two names, and ``1`` is one.

    Args:
        text: YAML.
        where: What the messages name as the place.

    Raises:
        ConfigError: It is no YAML, or has a key twice; the message has the line.
    """
    try:
        loader = _Loader(text)
        root = loader.get_single_node()
        if root is None:
            return None, {}
        _n_values(root, {})
        return loader.construct_document(root), _lines(root)
    except ConstructorError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ConfigError(f"{where}{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{where}: it cannot be read: {error}") from error
    except RecursionError as error:
        raise ConfigError(f"{where}: it is nested too deeply") from error


class _Loader(yaml.SafeLoader):
    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        if not isinstance(node, yaml.MappingNode):
            raise _refusal("a mapping is needed", node)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except (ArithmeticError, AttributeError, LookupError, ValueError) as error:
            # What PyYAML lets through, such as the 45th of a month.
            raise _refusal(f"no value: {error}", node) from error


def _refusal(words: str, node: yaml.Node) -> ConstructorError:
    return ConstructorError(None, None, words, node.start_mark)


def _n_values(node: yaml.Node, known: dict[int, int]) -> int:
    """Return how many values a node has where its aliases are written out.

    Args:
        node: Its keys are looked at, too.
        known: By `id`, of the nodes that were counted before; 0 of those that are being counted.

    Raises:
        ConstructorError: They are too many or have no end, or a key is there twice or is no text.
    """
    if id(node) in known:
        if not known[id(node)]:
            raise _refusal("it contains itself", node)
        return known[id(node)]
    known[id(node)] = 0
    within = [] if isinstance(node, yaml.ScalarNode) else node.value
    if isinstance(node, yaml.MappingNode):
        _check_keys(node)
        within = [value for _, value in node.value]
    n_values = 1 + sum(_n_values(one, known) for one in within)
    if n_values > _MAX_VALUES:
        raise _refusal(f"over {_MAX_VALUES} values, where aliases are written out", node)
    known[id(node)] = n_values
    return n_values


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse a key that is given twice: YAML would take the last one without a word."""
    seen: set[str] = set()
    for key, _ in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal("a text is needed as the key", key)
        if key.tag == _MERGE:
            continue
        if key.value in seen:
            raise _refusal(f"{key.value!r} is given twice", key)
        seen.add(key.value)


def _lines(root: yaml.Node) -> dict[tuple[str, str], int]:
    """Return the line of each key of the two outer levels, counted from 1; what was merged, too."""
    return {
        (outer.value, key.value): key.start_mark.line + 1
        for outer, inner in (root.value if isinstance(root, yaml.MappingNode) else ())
        for key, _ in (inner.value if isinstance(inner, yaml.MappingNode) else ())
    }
