"""docs/tasks.md: the families of the registry and the named tasks, with what they are made of."""

import inspect
import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import jax

from meta_train.describe import split_docstring
from tasks import NAMED, TASKS, TaskFamily, expand, make


def family_rows(part: Callable[[str, str], str]) -> list[tuple[str, ...]]:
    """Family, what it is, options, source; `part(docstring, name)` finds a paragraph."""
    rows = []
    for name, factory in sorted(TASKS.items()):
        options = ", ".join(f"`{option}`" for option in inspect.signature(factory).parameters)
        source = part(inspect.getdoc(factory) or "", "Source")
        rows.append((f"`{name}`", split_docstring(factory)[0], options, source))
    return rows


def named_rows() -> list[tuple[str, ...]]:
    """Named task, family and options, number of parameters, their shapes, data."""
    rows = []
    for name, spec in NAMED.items():
        family = make(spec)
        shapes = parameter_shapes(family)
        total = sum(count * math.prod(shape) for shape, count in shapes.items())
        options = {k: v for k, v in expand(spec).items() if k not in ("name", "datasets", "texts")}
        text = ", ".join(f"{k}: {yaml_like(v)}" for k, v in options.items())
        rows.append(
            (
                f"`{name}`",
                f"`{spec['name']}`" + (f" {text}" if text else ""),
                f"{total:,}",
                ", ".join(shape_text(shape, count) for shape, count in shapes.items()),
                data_text(spec, family),
            )
        )
    return rows


def parameter_shapes(family: TaskFamily) -> Counter[tuple[int, ...]]:
    """How many tensors of each shape a task of the family has; nothing is compiled."""

    def init(key):
        return family.task(family.sample(key)).init(key)

    params = jax.eval_shape(init, jax.random.key(0))
    return Counter(tuple(leaf.shape) for leaf in jax.tree.leaves(params))


def shape_text(shape: tuple[int, ...], count: int) -> str:
    """ "3 of 32 x 10"."""
    text = " x ".join(map(str, shape)) or "scalar"
    return text if count == 1 else f"{count} of {text}"


def yaml_like(value: Any) -> str:
    """As it is written in a config."""
    if isinstance(value, (tuple, list)):
        return "[" + ", ".join(map(yaml_like, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def data_text(spec: dict[str, Any], family: TaskFamily) -> str:
    """The data sets that a named task draws from."""
    options = expand(spec)
    names = options.get("datasets", options.get("texts"))
    if names is None and jax.tree.leaves(family.data):
        parameters = inspect.signature(TASKS[options["name"]]).parameters
        default = next((parameters[k].default for k in ("datasets", "texts") if k in parameters), None)
        names = default or ()
    return ", ".join(f"`{name}`" for name in names or ()) or "made from the task's key"
