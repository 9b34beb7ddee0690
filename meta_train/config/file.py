"""A YAML file and `key.sub=value` overrides as one plain dict; nothing is validated yet.

The files are YAML 1.2, read by ruamel.yaml and reduced to what JSON can hold: only `true` and
`false` are booleans (`off` and `no` are text), `1e-2` is a number, and `010`, `0x10`, `1:30` and
dates are text. Every size is bounded, so that no file can take long or much memory.
"""

import copy
import errno
import io
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.composer import Composer
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.representer import SafeRepresenter

from meta_train.errors import NO_VALUE, ConfigError, Problem, join, show

COMMAND_LINE = "command line"
MOST_BYTES = 250_000  # of a file or of one override
MOST_VALUES, MOST_ENTRIES, MOST_DEPTH = 10_000, 1_000, 50  # of all, of one list or mapping, of nesting
MOST_DIGITS = 100
Keep = Callable[[tuple[Any, ...], Any], Iterable[str] | None]

_CORE = "tag:yaml.org,2002:"
_CONSTANTS = {"bool": {"true": True, "false": False}, "null": dict.fromkeys(("", "~", "null"))}
# Plain text that a reader of YAML 1.1 or 1.2 takes for something other than text.
_AMBIGUOUS = re.compile(
    r"[-+]?\.?\d.*|[-+]?\.(inf|nan)|y|n|yes|no|on|off|true|false|null|~|=|<<|", re.I | re.S
)


class _Composer(Composer):
    """Stops where a text is too deep or too long, as reading all of it could take minutes."""

    nodes, level = 0, 0

    def __init__(self, loader=None):
        super().__init__(loader)
        self.warn_double_anchors = False  # a later anchor of the same name replaces the earlier one

    def compose_node(self, parent, index):
        self.nodes, self.level = self.nodes + 1, self.level + 1
        mark = self.parser.peek_event().start_mark
        if self.level > MOST_DEPTH:
            raise MarkedYAMLError(problem=f"it is nested more than {MOST_DEPTH} deep", problem_mark=mark)
        if self.nodes > MOST_VALUES:
            raise MarkedYAMLError(problem=f"it has more than {MOST_VALUES:,} values", problem_mark=mark)
        node = super().compose_node(parent, index)
        self.level -= 1
        return node


def parse(text: str) -> Any:
    """The value of a YAML text: mappings, lists, text, numbers, booleans and None.

    Raises:
      YAMLError: not YAML; a key given twice; more than one document; a tag that JSON has no value
        for; a value that is too long, too deep or inside itself.
    """
    if len(text) > MOST_BYTES:
        raise YAMLError(f"it is longer than {MOST_BYTES:,} characters")
    yaml = YAML(typ="safe", pure=True)
    yaml.Composer = _Composer
    try:
        node = yaml.compose(text)
    except YAMLError:
        raise
    except Exception as error:  # the parser's own, such as a malformed %YAML directive
        raise YAMLError(str(error) or type(error).__name__) from error
    return None if node is None else _value(node, (), iter(range(MOST_VALUES)))


def _value(node: Node, above: tuple[Node, ...], budget: Iterator[int]) -> Any:
    """The value of a node; each value takes one from the budget, however often an alias repeats it."""
    if any(node is other for other in above):
        raise _invalid(node, "the value contains itself")
    if len(above) > MOST_DEPTH:
        raise _invalid(node, f"it is nested more than {MOST_DEPTH} deep")
    if next(budget, None) is None:
        raise _invalid(node, f"it has more than {MOST_VALUES:,} values")
    tag = str(node.tag).removeprefix(_CORE)
    if isinstance(node, ScalarNode):
        return _scalar(node, tag)
    if len(node.value) > MOST_ENTRIES:
        raise _invalid(node, f"there are more than {MOST_ENTRIES:,} entries")
    if isinstance(node, SequenceNode) and tag == "seq":
        return [_value(entry, (*above, node), budget) for entry in node.value]
    if isinstance(node, MappingNode) and tag == "map":
        return _mapping(node, above, budget)
    raise _invalid(node, f"the tag {node.tag} is not allowed here")


def _scalar(node: ScalarNode, tag: str) -> Any:
    text = node.value
    if tag in ("str", "timestamp"):
        return text
    if tag in _CONSTANTS and text.lower() in _CONSTANTS[tag]:
        return _CONSTANTS[tag][text.lower()]
    if tag == "int" and re.fullmatch(r"[-+]?(0|[1-9][0-9_]*)", text):
        if len(text) > MOST_DIGITS:
            raise _invalid(node, f"the number has more than {MOST_DIGITS} digits")
        return int(text)
    if tag == "int" and re.fullmatch(r"[-+]?[0-9][0-9A-Fa-f_xob]*", text):
        return text
    if tag == "float":
        try:
            return float(re.sub(r"^([-+]?)\.(inf|nan)$", r"\1\2", text.lower()))
        except ValueError:
            pass
    if tag in (*_CONSTANTS, "int", "float", "seq", "map"):
        raise _invalid(node, f"{show(text)} is not of the type {tag}")
    raise _invalid(node, f"the tag {node.tag} is not allowed here")


def _mapping(node: MappingNode, above: tuple[Node, ...], budget: Iterator[int]) -> dict[str, Any]:
    merged: dict[str, Any] = {}
    own: dict[str, Any] = {}
    for key_node, value_node in node.value:
        value = _value(value_node, (*above, node), budget)
        if str(key_node.tag) == _CORE + "merge":
            parts = value if isinstance(value, list) else [value]
            if not all(isinstance(part, dict) for part in parts):
                raise _invalid(value_node, "<< must be followed by mappings")
            for part in reversed(parts):
                merged |= part
            continue
        if not isinstance(key_node, ScalarNode):
            raise _invalid(key_node, "a key must be text")
        key = key_node.value
        if key in own:
            raise _invalid(key_node, f"{key} is given twice")
        own[key] = value
    return merged | own


def _invalid(node: Node, problem: str) -> YAMLError:
    return MarkedYAMLError(problem=problem, problem_mark=node.start_mark)


class _Representer(SafeRepresenter):
    """Writes each value in full, and quotes what another reader would take for something else than text."""

    def ignore_aliases(self, data):
        return True

    def represent_str(self, data):
        style = "'" if _AMBIGUOUS.fullmatch(data) else None
        return self.represent_scalar(_CORE + "str", data, style=style)

    def represent_float(self, data):
        node = super().represent_float(data)
        node.value = re.sub(r"^(-?\d+)e", r"\1.0e", node.value)
        return node


_Representer.add_representer(str, _Representer.represent_str)
_Representer.add_representer(float, _Representer.represent_float)


def dump(value: Any) -> str:
    """YAML text, keys in the order given, that readers of YAML 1.1 and 1.2 read alike."""
    yaml, text = YAML(typ="safe", pure=True), io.StringIO()
    yaml.Representer = _Representer
    yaml.default_flow_style = None
    yaml.sort_base_mapping_type_on_output = False  # type: ignore[assignment]
    yaml.width = 100
    yaml.dump(value, text)
    return text.getvalue()


def read(path: str | Path) -> dict[str, Any]:
    """The top-level mapping of a YAML file.

    Raises:
      ConfigError: no such file, not text, too long, not YAML, empty, not a mapping.
    """
    try:
        if Path(path).is_fifo() or Path(path).is_char_device():  # these would be waited for
            raise OSError(errno.EINVAL, "it is not a regular file")
        with open(path, "rb") as file:
            content = file.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            raise YAMLError(f"it is longer than {MOST_BYTES:,} bytes")
        raw = parse(content.decode("utf-8"))
    except OSError as error:
        raise _refused(path, f"cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise _refused(path, f"is not UTF-8 text (byte {error.start})") from error
    except (YAMLError, ValueError) as error:
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
    if isinstance(error, MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        return f"{place}{error.problem or error.context}"
    return " ".join(str(error).split()) or type(error).__name__


def override(
    raw: dict[str, Any],
    overrides: Iterable[str],
    keep: Keep,
) -> tuple[dict[str, Any], list[Problem]]:
    """`raw` with `key.sub=value` pairs set in it, names first.

    A new `name` changes what its sibling keys mean, so those that the named thing does not have
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
        parts = key.strip().split(".")
        if not equals or "" in parts:
            problems.append(_wrong(show(text)[1:-1], "must be key=value, with dots in the key"))
        elif len(parts) > MOST_DEPTH:
            problems.append(_wrong(show(key)[1:-1], f"must have at most {MOST_DEPTH} parts"))
        else:
            try:
                pairs.append(
                    (tuple(int(p) if re.fullmatch("[0-9]{1,9}", p) else p for p in parts), parse(value))
                )
            except (YAMLError, ValueError) as error:
                problems.append(_wrong(key, f"the value is not valid YAML: {_explain(error)}", value))
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
