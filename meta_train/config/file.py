"""A YAML file and `key.sub=value` overrides -> one plain dict, nothing validated yet.

YAML 1.2's core schema in PyYAML's clothes: only `true` and `false` are booleans (`off` and `no`
are text), `1e-2` is a number, `010`, `1:30` and dates are text. A key given twice is refused.
"""

import copy
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import yaml

from meta_train.config.registry import as_json
from meta_train.errors import NO_VALUE, ConfigError, Problem, join, show

COMMAND_LINE = "command line"
Keep = Callable[[tuple[Any, ...], Any], Iterable[str] | None]


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            if key_node.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | None):
                raise yaml.constructor.ConstructorError(None, None, "a key must be text", key_node.start_mark)
            if key in seen:
                message = f"{key} is given twice"
                raise yaml.constructor.ConstructorError(None, None, message, key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)

    def construct_core_int(self, node):
        return int(node.value)

    def construct_core_float(self, node):
        return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", node.value.lower()))


class _Dumper(yaml.SafeDumper):
    """Quotes what either YAML 1.1 or our loader would take for something other than text."""

    yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeDumper.yaml_implicit_resolvers.items()}

    def ignore_aliases(self, data):
        return True


_SCALARS = [
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*(_[0-9]+)*)", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?[0-9]+[eE][-+]?[0-9]+", list("-+0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
    ("merge", r"<<", ["<"]),
]
for _tag, _pattern, _first in _SCALARS:
    for _yaml in (_Loader, _Dumper):
        _yaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern})$"), _first)
_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_core_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_core_float)


def dump(value: Any) -> str:
    """YAML text, keys in the order given, that any YAML reader reads alike."""
    return yaml.dump(
        value, Dumper=_Dumper, sort_keys=False, allow_unicode=True, default_flow_style=None, width=100
    )


def parse(text: str) -> Any:
    """The value of a YAML text.

    Raises:
      yaml.YAMLError: not YAML, a key given twice, more than one document.
    """
    return yaml.load(text, Loader=_Loader)


def read(path: str | Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file.

    Raises:
      ConfigError: no such file, not text, not YAML, empty, not a mapping.
    """
    try:
        raw = parse(Path(path).read_text(encoding="utf-8"))
        as_json(raw)
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _refused(path, f"is not UTF-8 text (byte {error.start})") from error
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        raise _refused(path, f"is not valid YAML: {_explain(error)}") from error
    if raw is None:
        raise _refused(path, "is empty")
    if not isinstance(raw, dict):
        raise _refused(path, "must be a mapping (key: value)", raw)
    return raw


def _refused(path: str | Path, message: str, value: Any = NO_VALUE) -> ConfigError:
    return ConfigError([Problem("", message, value, file=str(path))])


def _explain(error: Exception) -> str:
    """A YAML error in one line, with its place."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{place}{error.problem or error.context}"
    return str(error) or type(error).__name__


def override(
    raw: dict[str, Any],
    overrides: Iterable[str],
    keep: Keep,
) -> tuple[dict[str, Any], list[Problem]]:
    """`raw` with `key.sub=value` pairs set in it, names first.

    A new `name` changes what the keys beside it mean, so those that the named thing does not have
    are dropped; values set by other overrides are never dropped.

    Args:
      raw: from `read`; not modified.
      overrides: `key.sub=value`; the value is YAML, a number indexes a list (`tasks.0.weight=2`), and a key
        of `raw` may have dots itself (`hypers.weight.mlp.low=1`).
      keep: `(path of the mapping, its new name) -> the keys that may stay`, None for all.
    """
    raw, problems, pairs = copy.deepcopy(raw), [], []
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not key.strip() or "" in key.strip().split("."):
            problems.append(_wrong(text, "must be key=value, with dots in the key"))
            continue
        try:
            value = parse(value)
            as_json(value)
        except (yaml.YAMLError, ValueError) as error:
            problems.append(_wrong(key, f"the value is not valid YAML: {_explain(error)}", value))
            continue
        pairs.append((tuple(int(p) if p.isdecimal() else p for p in key.strip().split(".")), value))
    for path, value in sorted(pairs, key=lambda pair: pair[0][-1] != "name"):
        problem = _set(raw, path, value, keep)
        problems += [] if problem is None else [problem]
    return raw, problems


def _wrong(key: str, message: str, value: Any = NO_VALUE) -> Problem:
    return Problem(key, message, value, file=COMMAND_LINE)


def _set(raw: dict[str, Any], path: tuple[Any, ...], value: Any, keep: Keep) -> Problem | None:
    """Sets one value; mappings on the way are made, list entries must be there."""
    node: Any = raw
    path = _with_dotted_keys(raw, path)
    for i, part in enumerate(path):
        here = join(*path[:i])
        if not isinstance(node, dict | list):
            return _wrong(join(*path), f"{here} is {show(node)}, which has no keys")
        if isinstance(node, list) and part not in range(len(node)):
            return _wrong(join(*path), f"{here} has {len(node)} entries, numbered from 0; there is no {part}")
        key: Any = part if isinstance(node, list) else str(part)
        if i == len(path) - 1:
            _replace(node, key, value, path[:i], keep)
        elif isinstance(node, dict) and node.get(key) is None:
            node[key] = {}
        node = node[key]
    return None


def _with_dotted_keys(node: Any, path: tuple[Any, ...]) -> tuple[Any, ...]:
    """The path, with parts joined where they name one key together (`weight.mlp` of the hyperparameters)."""
    found: list[Any] = []
    while path:
        keys = node if isinstance(node, dict) else {}
        lengths = [n for n in range(2, len(path) + 1) if ".".join(map(str, path[:n])) in keys]
        length = max(lengths, default=1)
        found.append(".".join(map(str, path[:length])) if lengths else path[0])
        if isinstance(node, list):
            node = node[path[0]] if path[0] in range(len(node)) else None
        else:
            node = keys.get(str(found[-1]))
        path = path[length:]
    return tuple(found)


def _replace(node: Any, key: Any, value: Any, parent: tuple[Any, ...], keep: Keep) -> None:
    if key == "name" and isinstance(node, dict) and node.get("name") != value:
        names = keep(parent, value)
        for other in [k for k in node if names is not None and k not in names]:
            del node[other]
    node[key] = value
