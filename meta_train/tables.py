"""The tables in docs/, made from the registries: `python -m meta_train.tables DIR` writes them.

What a table says stands in the docstrings and nowhere else; a test compares the files with it.
"""

import inspect
import re
import sys
from collections.abc import Callable
from pathlib import Path

from learned_opt import LEARNED_OPTIMIZERS
from meta_train.describe import split_docstring
from meta_train.estimators import ESTIMATORS
from tasks import TASKS


def part(docstring: str, name: str) -> str:
    """The paragraph `Name: text` of a docstring, on one line; "" if there is none."""
    found = re.search(
        rf"^{name}:[ \n](.*?)(?=^\S[^\n]*?:(?:[ \n])|^$|\Z)", docstring, re.MULTILINE | re.DOTALL
    )
    return " ".join(found[1].split()) if found else ""


def cell(text: str) -> str:
    """Text as it may stand in a Markdown table."""
    return text.replace("|", "\\|").rstrip(".") or "-"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *(tuple(map(cell, row)) for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines) + "\n"


def page(title: str, *lines: str, table: str) -> str:
    """A page of docs/: title, text, table."""
    made = "Made from the docstrings by `python -m meta_train.tables docs`."
    return "\n".join([f"# {title}", "", made, *lines, "", table])


# Estimators whose mean is not the gradient, and what their tests assert instead.
BIASED = {
    "metz2019": "caught by every unbiasedness check; the known truncation bias",
    "pes_analytic": "unbiased but for `product`, whose smoothing it mixes",
    "reparam": "caught by every unbiasedness check; the known truncation bias",
    "tbptt": "caught by every unbiasedness check; the known truncation bias",
    "truncated_es": "caught by every unbiasedness check; the known truncation bias",
}


def estimators() -> str:
    """docs/estimators.md."""
    rows = []
    for name, factory in sorted(ESTIMATORS.items()):
        doc = inspect.getdoc(factory) or ""
        needs = part(doc, "Needs") or "nothing but the losses"
        compute, _, memory = part(doc, "Cost").partition("; memory ")
        columns = [part(doc, key) for key in ("Bias", "Variance", "Reduces to", "Source")]
        test = f"`check_estimator`: {BIASED.get(name, 'all of it, unbiased')}"
        rows.append(
            (
                f"`{name}`",
                split_docstring(factory)[0],
                *columns[:2],
                compute,
                memory,
                needs,
                *columns[2:],
                test,
            )
        )
    head = (
        "estimator",
        "method",
        "bias",
        "variance",
        "compute",
        "memory",
        "needs",
        "reduces to",
        "source",
        "test",
    )
    return page(
        "Estimators of the outer gradient",
        "K is `truncation_length`, T the length of an inner problem, N `num_particles`; a window is K steps.",
        "Every claim of bias is tested against closed-form truths by `meta_train.testing.check_estimator`,",
        "which checks your own estimators as well; tests/meta_train/test_estimators.py runs it on these.",
        "`meta-train describe NAME` prints the options of each; those of the `noise` of PES, NRES, full ES,",
        "GPES and truncated ES are orthogonal pairs, common random numbers, schedules and scales of sigma.",
        table=table(head, rows),
    )


def tasks() -> str:
    """docs/tasks.md."""
    rows = [(f"`{name}`", split_docstring(factory)[0]) for name, factory in sorted(TASKS.items())]
    return page(
        "Task families",
        "`meta-train describe NAME` prints the options of each.",
        table=table(("family", "what it is"), rows),
    )


def optimizers() -> str:
    """docs/optimizers.md."""
    rows = []
    for name, factory in sorted(LEARNED_OPTIMIZERS.items()):
        needs = ", ".join(factory().needs) or "nothing"
        source = part(inspect.getdoc(factory) or "", "Source")
        rows.append((f"`{name}`", split_docstring(factory)[0], needs, source))
    return page(
        "Learned optimizers",
        "Needs: `num_steps` is given to `learned_opt.load`, `value` (the training loss) to `update`.",
        table=table(("optimizer", "what it is", "needs", "source"), rows),
    )


TABLES: dict[str, Callable[[], str]] = {
    "estimators.md": estimators,
    "optimizers.md": optimizers,
    "tasks.md": tasks,
}


if __name__ == "__main__":
    for file, make in TABLES.items():
        Path(sys.argv[1], file).write_text(make(), encoding="utf-8")
