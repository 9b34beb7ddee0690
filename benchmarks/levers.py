"""What each of the numbers of `pretrained:general` gives, on the tasks that they were searched on.

python -m benchmarks.levers [NUMBERS.json] [--adam runs/search_adam] [--tasks relu vit] [--seeds 1]
python -m benchmarks.levers --decays      # other weight decays, from which that of `general` was chosen
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.general import FOUND
from benchmarks.search import LARGE, LONG, NUMBERS, OF_LARGE, SEEDS, SHORT, SPECS, scores

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


def levers(tried: dict[str, dict[str, float]], cells: list[tuple[str, int]], seeds: int, cache: Path) -> None:
    """Prints the averages of the variants over tasks and seeds, for each number of steps."""
    candidates = np.array([[numbers[name] for name in NUMBERS] for numbers in tried.values()])
    runs: dict = {}
    found = [scores(candidates, cells, seed, cache, runs) for seed in SEEDS[:seeds]]
    speed, validation = np.mean([pair[0] for pair in found], 0), np.mean([pair[1] for pair in found], 0)
    lengths = sorted({steps for _, steps in cells})
    heads = [f"{what}, {steps} steps" for what in ("speed-up", "validation") for steps in lengths]
    print("| | " + " | ".join(heads) + " |\n|" + "---|" * (len(heads) + 1))
    masks = [np.array([steps == length for _, steps in cells]) for length in lengths]
    for i, name in enumerate(tried):
        means = [speed[i, mask].mean() for mask in masks] + [-validation[i, mask].mean() for mask in masks]
        print(f"| {name} | {' | '.join(f'{np.exp(mean):.2f}' for mean in means)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("numbers", type=Path, nargs="?", default=FOUND)
    parser.add_argument(
        "--adam", type=Path, default=Path("runs/search_adam"), help="where Adam's curves are kept"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(SPECS), default=list(SPECS))
    parser.add_argument("--seeds", type=int, choices=range(1, len(SEEDS) + 1), default=len(SEEDS))
    parser.add_argument("--decays", action="store_true", help="other weight decays in place of the levers")
    args = parser.parse_args()
    numbers = json.loads(args.numbers.read_text())
    cells = [
        (name, steps) for name in args.tasks for steps in ((OF_LARGE,) if name in LARGE else (SHORT, LONG))
    ]
    levers(variants(numbers, args.decays), cells, args.seeds, args.adam)


if __name__ == "__main__":
    main()
