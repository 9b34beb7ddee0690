"""The generated pages of docs/: `make docs` writes them from the registries.

The text of a table comes from docstrings, from the registries, or from the JSON file of a benchmark in
docs/. A test compares the pages with what this program would write.
"""

import inspect
import json
import math
import re
import textwrap
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from docs import make_estimators
from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer
from meta_train.cli.describe import split_docstring
from tasks import NAMED, TASKS, TaskFamily, expand, make


def part(docstring: str, name: str) -> str:
    """The paragraph `Name: text` of a docstring, on one line; "" if there is none."""
    found = re.search(
        rf"^{name}:[ \n](.*?)(?=^[A-Z][^\n]*?:(?:[ \n])|^$|\Z)", docstring, re.MULTILINE | re.DOTALL
    )
    return " ".join(found[1].split()) if found else ""


def cell(text: str) -> str:
    """Text as it may stand in a Markdown table."""
    return text.replace("|", "\\|").rstrip(".") or "-"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *(tuple(map(cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def page(title: str, *paragraphs: str, table: str) -> str:
    """A page of docs/: title, wrapped paragraphs and bullets, table."""
    made = "`make docs` makes this page from the registries and their docstrings."
    wrapped = [
        textwrap.fill(text, 118, subsequent_indent="  " if text.startswith("* ") else "")
        + ("" if text.startswith("* ") else "\n")
        for text in (made, *paragraphs)
    ]
    return "\n".join([f"# {title}", "", *wrapped]).rstrip() + f"\n\n{table}"


def sections(rows: dict[str, dict[str, str]], first: str, parts: dict[str, tuple[str, ...]]) -> str:
    """One table for each part, with the name of each row and the columns of the part."""
    return "\n".join(
        f"## {title}\n\n"
        + table(
            (first, *columns),
            [(f"`{name}`", *(row[column] for column in columns)) for name, row in rows.items()],
        )
        for title, columns in parts.items()
    )


def estimators() -> str:
    """docs/estimators.md."""
    return make_estimators.estimators(part, table, measured("estimator_claims.json"))


def tasks() -> str:
    """docs/tasks.md."""
    families = table(("family", "what it is", "options", "source"), family_rows(part))
    note = "No ring of held-out tasks (`tasks/rings.py`) contains any of them."
    named = table(("task", "family, options", "parameters", "their shapes", "data"), named_rows())
    return page(
        "Tasks",
        "In a config, a task is `{name: FAMILY, option: value}`, or `{name: TASK}` with any option replaced. "
        "`meta-train describe NAME` prints the options of a family, `meta-train list named` lists the tasks.",
        "[Data](data.md) lists what `datasets` and `texts` can name: data that come with scikit-learn and "
        "Python, generated ones, and your own in files, TFDS, Parquet or from a program.",
        f"## {len(TASKS)} families",
        table=f"{families}\n## {len(NAMED)} named tasks\n\n{note}\n\n{named}",
    )


def optimizers() -> str:
    """docs/optimizers.md."""
    parity, speed = measured("parity.json"), measured("apply.json")
    rows = {}
    for name, factory in sorted(LEARNED_OPTIMIZERS.items()):
        doc, figures = inspect.getdoc(factory) or "", speed["optimizers"].get(name)
        rows[name] = {
            "what it is": split_docstring(factory)[0],
            "meta-parameters": f"{meta_parameters(factory()):,}",
            "needs": ", ".join(factory().needs) or "nothing",
            "state": state_bytes(factory),
            "ms per step": f"{figures['ms']:.0f} ({figures['to_adam']:.1f})" if figures else "",
            "parity": f"{parity[name]:.0e}" if name in parity else "",
            **{key.lower(): part(doc, key) for key in ("Inputs", "Outputs", "Source")},
        }
    return page(
        "Learned optimizers",
        "* *Needs*: `num_steps` is given to `learned_opt.load`, `value` (the training loss) to `update`.",
        "* *State*: bytes per parameter of a 512 x 512 matrix; in parentheses with `state_dtype: bfloat16`.",
        f"* *ms per step*: for a small transformer with {speed['parameters']:,} parameters, on busy CPU "
        "cores; in parentheses over Adam's. `python benchmarks/apply.py` measured it with these parameters "
        "(`docs/apply.json`). Compare the ratios; [Measurements](performance.md) has a larger model.",
        "* *Parity*: the largest relative deviation from trajectories recorded from the original code "
        "(`python benchmarks/parity.py`; `docs/parity.json`). The tests demand less than 2e-05. Where there "
        "is no figure there is no such trajectory, and `tests/learned_opt/test_variants.py` compares the "
        "optimizer with what it reduces to.",
        table=sections(
            rows,
            "optimizer",
            {
                "Overview": ("what it is", "meta-parameters", "needs", "state", "ms per step", "parity"),
                "What goes in and what comes out": ("inputs", "outputs"),
                "Where each one comes from": ("source",),
            },
        ),
    )


def measured(file: str) -> Any:
    """Figures that a benchmark wrote to docs/."""
    return json.loads((Path(__file__).parent / file).read_text(encoding="utf-8"))


def meta_parameters(lopt: LearnedOptimizer) -> int:
    """The number of meta-parameters."""
    return sum(x.size for x in jax.tree.leaves(jax.eval_shape(lopt.init, jax.random.key(0))))


def state_bytes(factory: Callable[..., LearnedOptimizer]) -> str:
    """Bytes of state for each parameter of a matrix, what tensors and the whole share left out."""

    def per_parameter(**options):
        lopt, params = factory(**options), {"w": jnp.zeros((512, 512))}
        state = jax.eval_shape(lambda key: lopt.build(lopt.init(key), 10).init(params), jax.random.key(0))
        large = [x for x in jax.tree.leaves(state) if x.size >= 512]
        return sum(x.size * x.dtype.itemsize for x in large) / 512**2

    text = f"{per_parameter():.0f}"
    if "state_dtype" in inspect.signature(factory).parameters:
        text += f" ({per_parameter(state_dtype='bfloat16'):.0f})"
    return text


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
    return ", ".join(f"`{name}`" for name in names or ()) or "generated from the task's key"


TABLES: dict[str, Callable[[], str]] = {
    "estimators.md": estimators,
    "optimizers.md": optimizers,
    "tasks.md": tasks,
}


if __name__ == "__main__":
    for file, content in TABLES.items():
        Path(__file__).with_name(file).write_text(content(), encoding="utf-8")
