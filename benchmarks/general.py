"""Writes the artefact `pretrained:general` again, from the numbers that were found for it.

    python -m benchmarks.general DIRECTORY [--log runs/search_2/log.jsonl] [--evaluation evaluation.json]
    python -m benchmarks.general DIRECTORY --hidden 4      # with a network, to meta-train it
    python -m benchmarks.general DIRECTORY --only level    # the others as at initialisation
    python -m benchmarks.general DIRECTORY --other runs/second/log.jsonl     # of another search

It is the `spectral` architecture with the 22 numbers of `benchmarks/general_numbers.json`: 18 that the second
search of `benchmarks/search.py` found, three of the weight decay that were chosen by `benchmarks/levers.py
--decays` on tasks of the search, and the power of the width above 64. With `--log`, the last numbers of a
search are taken, and written there first; with `--evaluation`, the card gets that evaluation.
"""

import argparse
import json
from pathlib import Path

import jax
import numpy as np

import learned_opt
from benchmarks.search import DECAY, NUMBERS, RATE, SPECS, theta_of
from learned_opt.artefact.card import PLACEHOLDER
from learned_opt.artefact.format import CARD
from meta_train.evaluation.tables import summary

HERE = Path(__file__).parent
FOUND = HERE / "general_numbers.json"
EVALUATION = HERE.parent / "docs" / "pretrained" / "general.json"
WIDE = -0.5  # the power of the width above 64, chosen on lm_320k and mlp_300k of benchmarks/spectral.py
LEVELS = ("level", "log_decay")  # of rate and weight decay: they become options, so that both can be replaced


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("directory")
    parser.add_argument("--log", type=Path, help="take the last numbers of this search")
    parser.add_argument("--other", type=Path, help="of this search, whose numbers are not those that ship")
    parser.add_argument("--evaluation", type=Path, help="what `meta-train evaluate` wrote")
    parser.add_argument("--hidden", type=int, default=0, help="width of a network that changes nothing yet")
    parser.add_argument("--only", nargs="*", metavar="NUMBER", help="the others are 0")
    args = parser.parse_args()
    if args.log:
        FOUND.write_text(json.dumps(last_numbers(args.log), indent=1) + "\n")
    if args.evaluation:
        kept = summary(json.loads(args.evaluation.read_text()))
        EVALUATION.write_text(json.dumps(kept, indent=1) + "\n")
    numbers = last_numbers(args.other) if args.other else json.loads(FOUND.read_text())
    if args.only is not None:
        numbers = {name: value if name in args.only else 0.0 for name, value in numbers.items()}
    variant = args.only is not None or args.hidden or args.other
    write(args.directory, numbers, args.hidden, None if variant else json.loads(EVALUATION.read_text()))


def last_numbers(log: Path) -> dict[str, float]:
    """The numbers with which a search ended, and the power of the width that it does not move."""
    last = json.loads(log.read_text().splitlines()[-1])
    return {name: round(value, 2) for name, value in last["mean"].items()} | {"wide": WIDE}


def write(directory: str, numbers: dict[str, float], hidden: int, evaluation: dict | None) -> None:
    """Writes the artefact that the numbers, by their names in NUMBERS, stand for, and its evaluation."""
    within, wide = {**numbers, **dict.fromkeys(LEVELS, 0.0)}, numbers["wide"]
    learned_opt.save(
        directory,
        name="spectral",
        options={
            "learning_rate": round(RATE * float(np.exp(numbers["level"])), 6),
            "weight_decay": round(DECAY * float(np.exp(numbers["log_decay"])), 6),
            **({"hidden": hidden} if hidden else {}),
        },
        theta=jax.tree.map(
            np.asarray, theta_of(np.array([within[name] for name in NUMBERS], np.float32), wide, hidden)
        ),
        horizon=(200, 1000),
        parameters=320_000,
        provenance={
            "made_by": "benchmarks/general.py",
            "method": "CMA-ES over 19 numbers by whole trainings (benchmarks/search.py); no outer gradient",
        },
        config={"tasks": [{"label": label, **spec} for label, spec in SPECS.items()], "seed": 2},
        evaluation=evaluation,
    )
    card = Path(directory) / CARD
    card.write_text(card.read_text().replace(PLACEHOLDER, "pretrained:general"))


if __name__ == "__main__":
    main()
