"""The model card of an artefact: README.md with the metadata that the Hugging Face Hub reads."""

import json
import math
from collections.abc import Iterable, Mapping
from typing import Any

from learned_opt.base import LearnedOptimizer

# Stands in a card for the repository, until `push_to_hub` knows it.
PLACEHOLDER = "hub:USER/NAME"
# Parts of the configuration of a meta-training that say what it was.
SUMMARY = (
    "tasks",
    "inner",
    "estimator",
    "outer_optimizer",
    "outer_steps",
    "seed",
)
WIDEST = 300  # characters of a value; all of it is in config.json


def model_card(
    content: Mapping[str, Any], lopt: LearnedOptimizer, what: str, *, foreign: bool = False
) -> str:
    """The card as Markdown, made from what `config.json` holds.

    Args:
      content: of `config.json`.
      lopt: the learned optimizer, for what it needs.
      what: one line that says what the architecture is.
      foreign: whether it is not one of this package, so that its factory is needed.
    """
    name = content["architecture"]
    size = sum(math.prod(entry["shape"]) for entry in content["theta"].values())
    parts = [
        _metadata(content),
        f"# A learned optimizer: {name}",
        f"{what.rstrip('.')}.\n\n{size:,} meta-parameters; an optax transformation, made with `learned_opt`.",
        f"## Use\n\n{_use(lopt, name.rpartition(':')[2] if foreign else None)}",
        "## What it is\n\n" + _table(("", ""), _facts(content)),
        "## Where it comes from\n\n" + _table(("", ""), _flat(content["provenance"])),
    ]
    config = content["config"]
    if isinstance(config, Mapping) and any(key in config for key in SUMMARY):
        rows = [(key, _names(config[key])) for key in SUMMARY if config.get(key) is not None]
        parts.append("## Meta-training\n\n" + _table(("", ""), rows))
    if content["evaluation"] is not None:
        parts.append("## Evaluation\n\n" + _evaluation(content["evaluation"]))
    parts.append("Everything else is in `config.json`, with the sha256 of it and of the weights.")
    return "\n\n".join(parts) + "\n"


def _metadata(content: Mapping[str, Any]) -> str:
    """YAML of which every value is JSON, which YAML includes."""
    data = {
        "library_name": "learned-opt",
        "tags": ["learned-optimizer", "meta-learning", "optax", "jax", content["architecture"]],
    }
    return "\n".join(["---", *(f"{key}: {json.dumps(value)}" for key, value in data.items()), "---"])


def _use(lopt: LearnedOptimizer, factory: str | None) -> str:
    own = f", architecture={factory}" if factory else ""
    steps = ", num_steps=1000" if "num_steps" in lopt.needs else ""
    value = ", value=loss" if "value" in lopt.needs else ""
    said = [f"An optax transformation: `updates, state = tx.update(grads, state, params{value})`."]
    if "num_steps" in lopt.needs:
        said.append("`num_steps` is the number of steps of your training.")
    if factory:
        said.append(f"`{factory}` is the factory of its architecture, which is not a part of `learned_opt`.")
    if not lopt.needs:
        said.append("It needs neither the number of steps of your training nor the loss.")
    return (
        "```python\nimport learned_opt\n\n"
        f'tx = learned_opt.load("{PLACEHOLDER}"{steps}{own})  # or the directory\n```\n\n' + " ".join(said)
    )


def _names(value: Any) -> Any:
    """Of a list of named things, such as task families, the names and labels."""
    if not isinstance(value, list) or not all(isinstance(x, Mapping) and "name" in x for x in value):
        return value
    return ", ".join(dict.fromkeys(_named(x["name"], x.get("label")) for x in value))


def _named(name: str, label: str | None) -> str:
    return f"{name} ({label})" if label not in (None, name) else name


def _facts(content: Mapping[str, Any]) -> list[tuple[str, Any]]:
    horizon = content["horizon"]
    steps = (
        "not recorded"
        if horizon is None
        else horizon
        if isinstance(horizon, int)
        else " to ".join(map(str, horizon))
    )
    return [
        ("architecture", content["architecture"]),
        ("options", content["options"] or "the defaults"),
        ("steps of the inner trainings it was meta-trained on", steps),
        ("parameters of the largest model that it was tried on", content.get("parameters")),
        ("sha256 of the weights", content["theta_sha256"]),
    ]


def _flat(mapping: Mapping[str, Any], prefix: str = "") -> Iterable[tuple[str, Any]]:
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif value is not None:
            yield prefix + key, value


def _evaluation(evaluation: Any) -> str:
    """A mapping with `table` (`head`, `rows`) and `notes`; a list of mappings, a row each; or anything."""
    if isinstance(evaluation, Mapping) and "table" in evaluation:
        parts = []
        for key in ("comparisons", "table"):
            if key in evaluation:
                parts += [_table(evaluation[key]["head"], evaluation[key]["rows"]), ""]
        return "\n".join([*parts, *(f"* {note}" for note in evaluation.get("notes", ()))])
    rows = evaluation if isinstance(evaluation, list) else [evaluation]
    if not rows or not all(isinstance(row, Mapping) for row in rows):
        return f"`{_text(evaluation)}`"
    titles = list(dict.fromkeys(str(key) for row in rows for key in row))
    return _table(titles, [[row.get(title) for title in titles] for row in rows])


def _table(titles: Iterable[str], rows: Iterable[Iterable[Any]]) -> str:
    titles = list(titles)
    lines = [titles, ["---"] * len(titles), *([_text(value) for value in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _text(value: Any) -> str:
    """A value in one line that does not break a table."""
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.3g}"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = " ".join(text.split()).replace("|", "\\|")
    return text if len(text) <= WIDEST else f"{text[:WIDEST]} ..."
