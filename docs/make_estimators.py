"""docs/estimators.md: claims from the docstrings, figures from docs/estimator_claims.json."""

import inspect
import textwrap
from collections.abc import Callable
from typing import Any

from meta_train.cli.describe import split_docstring
from meta_train.estimators import CLAIMS, ESTIMATORS

WHOLE_WORDS: dict[str, Any] = {"break_long_words": False, "break_on_hyphens": False}
SYSTEMS = {
    "linear": "losses linear in theta, random influences, |theta| = 12",
    "quadratic": "linear-quadratic, |theta| = 8",
}
INTRODUCTION = """\
# Estimators of the outer gradient

Made from the docstrings and from docs/estimator_claims.json by `make docs`.
K is `truncation_length`, T the length of an inner problem, N `num_particles`; a window is K steps.

Every claim about the mean is tested against closed-form truths by
[`check_estimator`](check_estimator.md), which checks your own estimators as well. Every figure about variance
and cost is measured by `python benchmarks/estimator_claims.py`, and a slow test repeats the measurement.
`meta-train describe NAME` prints the options of each estimator. Those of the `noise` of PES, NRES, full ES,
GPES and truncated ES are orthogonal pairs, common random numbers, schedules and scales of sigma.

*Forward steps* are the floating-point operations of one particle's window over those of K steps (of T steps,
where an estimator takes whole inner problems), as the compiled program counts them: on a system whose step is
a matrix product, and on the training of a small network with learnable Adam.
"""
VARIANCE = """\
*Variance* is the trace of the covariance of one particle's gradient, over the squared length of the true
gradient of the window's loss (of the mean loss, where an estimator takes whole inner problems): K = 1, T = 8,
sigma = 0.1. The rows "formula" are what the text claims, evaluated; "-" where there is no closed form.
"""


def estimators(part: Callable[[str, str], str], table: Callable[..., str], claims: dict[str, Any]) -> str:
    """docs/estimators.md.

    Args:
      part: `(docstring, name)` -> the paragraph of that name.
      table: `(head, rows)` -> a Markdown table.
      claims: what `benchmarks/estimator_claims.py` wrote.
    """
    rows, sections = [], []
    for name, factory in sorted(ESTIMATORS.items()):
        doc = inspect.getdoc(factory) or ""
        compute, _, memory = part(doc, "Cost").partition("; memory ")
        steps = [claims["steps"][label].get(name) for label in ("product", "network")]
        rows.append(
            (
                f"[`{name}`](#{name})",
                split_docstring(factory)[0],
                part(doc, "Bias"),
                *("-" if x is None else f"{x:g}" for x in steps),
                part(doc, "Needs") or "nothing but the losses",
            )
        )
        facts = {
            "Bias": part(doc, "Bias"),
            "Test": f"`check_estimator`: {test_of(name)}.",
            "Variance": part(doc, "Variance"),
            "Cost": compute,
            "Memory": memory,
            "Reduces to": part(doc, "Reduces to"),
            "Source": part(doc, "Source"),
        }
        lines = [
            textwrap.fill(f"* **{label}**: {text.rstrip('.')}.", 118, subsequent_indent="  ", **WHOLE_WORDS)
            for label, text in facts.items()
            if text
        ]
        sections.append("\n".join([f"### {name}", "", *lines, "", *_variances(name, table, claims)]))
    head = ("estimator", "method", "bias", "forward steps, product", "network", "needs")
    return "\n".join([INTRODUCTION, table(head, rows), "## One by one", "", VARIANCE, *sections])


def _variances(name: str, table: Callable[..., str], claims: dict[str, Any]) -> list[str]:
    """The measured table of one estimator; nothing for one that was not measured."""
    rows: list[tuple[str, ...]] = []
    windows = [0, 1, 3, 5, 7]
    for label, text in SYSTEMS.items():
        found = claims["variance"][label].get(name)
        if found is None:
            continue
        shown = windows if len(found["measured"]) > 1 else [0]
        if not any(x for x in found["measured"] if x > 1e-6):
            rows.append((f"{text}: measured and formula", *("0" for _ in shown)))
            continue
        for kind in ("measured", "expected"):
            figures = [found[kind][i] for i in shown]
            cells = ("-" if x is None else "0" if abs(x) < 1e-6 else f"{x:.3g}" for x in figures)
            rows.append((f"{text}: {kind.replace('expected', 'formula')}", *cells))
    if not rows:
        return ["Not measured.", ""]
    count = len(rows[0]) - 1
    head = ("system", *(f"window {w + 1}" for w in windows)) if count > 1 else ("system", "all windows")
    return [table(head, rows)]


def test_of(name: str) -> str:
    """What the contract tests assert of an estimator's mean."""
    claim = CLAIMS.get(name)
    if claim is None:
        return "nothing is claimed of its mean"
    if claim.smoothing is None:
        return "every unbiasedness check catches it; the known truncation bias"
    mixed = ", ".join(f"`{check.removeprefix('unbiased: ')}`" for check in claim.mixed)
    return f"unbiased but for {mixed}, whose smoothing it mixes" if mixed else "all of it, unbiased"
