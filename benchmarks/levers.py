"""What each of the numbers of `pretrained:general` gives, on the tasks that they were searched on.

python -m benchmarks.levers [NUMBERS.json] [--adam runs/search_adam] [--tasks relu vit] [--seeds 1]
python -m benchmarks.levers --decays      # other weight decays, from which that of `general` was chosen
python -m benchmarks.levers --against benchmarks/second_seed.jsonl --fresh --seeds 2     # other numbers
python -m benchmarks.levers benchmarks/second_seed.jsonl --around .6 --fresh --seeds 2   # its neighbours

A set of numbers is a JSON file of them, or the log of a search, whose last numbers count.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.general import FOUND, last_numbers
from benchmarks.search import (
    LARGE,
    LONG,
    NUMBERS,
    OF_LARGE,
    SEEDS,
    SHORT,
    SPECS,
    VALIDATION,
    score,
    scores,
)

FRESH = range(104, 108)  # seeds of tasks that no search has

# What is set back, all to 0, to see what it gives: then the rule is as at its initialisation there.
LEVERS: dict[str, tuple[str, ...]] = {
    "the level": ("level",),
    "rates of vectors and kernels": ("vectors", "kernels"),
    "powers of T": ("log_t", "log_t_vectors"),
    "signals": tuple(name for name in NUMBERS if name.endswith(("certainty", "cosine", "agreement"))),
    "the course of the rate": ("early", "middle", "late"),
    "the power of the width": ("narrow",),
    "the momentum": ("momentum",),
    "the weight decay": ("log_decay", "decay_power", "decay_course"),
}
# log of the weight decay over .01 in the middle of 500 steps, its power of T, and its course
DECAYS = (
    (-2.07, 0.0, 0.0),
    (0.0, 0.0, -2.0),
    (0.5, 0.0, -2.0),
    (0.5, 0.0, -1.0),
    (1.0, 0.0, -2.0),
    (-0.3, -1.0, -2.0),
)


def variants(numbers: dict[str, float], decays: bool) -> dict[str, dict[str, float]]:
    """Label -> numbers: with each lever set back and with all of them, or with each of DECAYS."""
    if decays:
        names = LEVERS["the weight decay"]
        return {str(decay): numbers | dict(zip(names, decay, strict=True)) for decay in DECAYS}
    back = {"found": (), "nothing learned": tuple(NUMBERS)}
    back |= {f"without {name}": members for name, members in LEVERS.items()}
    return {name: numbers | dict.fromkeys(members, 0.0) for name, members in back.items()}


def neighbours(numbers: dict[str, float], by: float) -> dict[str, dict[str, float]]:
    """Label -> numbers: with each number moved up and down by `by` of its first deviation in the search."""
    moved = {"found": numbers}
    for name, (_, deviation) in NUMBERS.items():
        for sign in (1, -1):
            moved[f"{name} {sign * by:+g}"] = numbers | {name: numbers[name] + sign * by * deviation}
    return moved


def numbers_of(path: Path) -> dict[str, float]:
    """The numbers of a JSON file, or the last ones of a search's log."""
    return last_numbers(path) if path.suffix == ".jsonl" else json.loads(path.read_text())


def levers(
    tried: dict[str, dict[str, float]],
    cells: list[tuple[str, int]],
    seeds: range,
    cache: Path,
    weight: float = VALIDATION,
) -> None:
    """Prints the averages of the variants over tasks and seeds, for each number of steps and for all.

    The score is the search's, with the standard error, over tasks and seeds, of its difference from the first
    variant's; `weight` is that of the validation losses in it.
    """
    candidates = np.array([[numbers[name] for name in NUMBERS] for numbers in tried.values()])
    runs: dict = {}
    found = [scores(candidates, cells, seed, cache, runs) for seed in seeds]
    each = [
        score(fast.reshape(-1, 1), good.reshape(-1, 1), weight).reshape(len(tried), -1)
        for fast, good in found
    ]
    each = np.concatenate(each, 1)
    errors = (each - each[0]).std(1) / np.sqrt(each.shape[1])
    speed, validation = np.mean([pair[0] for pair in found], 0), np.mean([pair[1] for pair in found], 0)
    lengths = sorted({steps for _, steps in cells})
    heads = [f"{what}, {steps} steps" for what in ("speed-up", "validation") for steps in lengths]
    heads += ["speed-up", "validation", "score"]
    print("| | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
    masks = [np.array([steps == length for _, steps in cells]) for length in lengths]
    for i, name in enumerate(tried):
        means = [speed[i, mask].mean() for mask in masks] + [-validation[i, mask].mean() for mask in masks]
        means += [speed[i].mean(), -validation[i].mean()]
        ratios = " | ".join(f"{np.exp(mean):.2f}" for mean in means)
        print(f"| {name} | {ratios} | {each[i].mean():.3f} +- {errors[i]:.3f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("numbers", type=Path, nargs="?", default=FOUND)
    parser.add_argument(
        "--adam", type=Path, default=Path("runs/search_adam"), help="where Adam's curves are kept"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(SPECS), default=list(SPECS))
    parser.add_argument("--seeds", type=int, choices=range(1, len(SEEDS) + 1), default=len(SEEDS))
    parser.add_argument("--decays", action="store_true", help="other weight decays in place of the levers")
    parser.add_argument("--against", nargs="+", type=Path, metavar="NUMBERS", help="other sets of numbers")
    parser.add_argument("--around", type=float, metavar="BY", help="each number moved by BY of its deviation")
    parser.add_argument("--fresh", action="store_true", help="tasks at seeds that no search has")
    parser.add_argument("--weight", type=float, default=VALIDATION, help="of validation in the score")
    args = parser.parse_args()
    try:
        numbers, *others = [numbers_of(path) for path in (args.numbers, *(args.against or ()))]
    except (OSError, ValueError) as error:
        parser.error(str(error))
    cells = [
        (name, steps) for name in args.tasks for steps in ((OF_LARGE,) if name in LARGE else (SHORT, LONG))
    ]
    if others:
        tried = {str(args.numbers): numbers, **dict(zip(map(str, args.against), others, strict=True))}
    else:
        tried = neighbours(numbers, args.around) if args.around else variants(numbers, args.decays)
    seeds = (FRESH if args.fresh else SEEDS)[: args.seeds]
    levers(tried, cells, seeds, args.adam, args.weight)


if __name__ == "__main__":
    main()
