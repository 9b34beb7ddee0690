"""What each of the numbers of `pretrained:general` gives, on the tasks that they were searched on.

python -m benchmarks.levers [NUMBERS.json] [--adam runs/search_adam]
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.general import FOUND
from benchmarks.search import LARGE, LONG, NUMBERS, OF_LARGE, SEEDS, SHORT, SMALL, scores

# What is set back, all to 0, to see what it gives: then the rule is as at its initialisation there.
LEVERS: dict[str, tuple[str, ...]] = {
    "the level": ("level",),
    "rates of vectors and kernels": ("vectors", "kernels"),
    "powers of T": ("log_t", "log_t_vectors"),
    "signals": tuple(name for name in NUMBERS if name.endswith(("certainty", "cosine", "agreement"))),
    "the course of the rate": ("early", "middle", "late"),
    "the power of the width": ("narrow",),
    "the momentum": ("momentum",),
    "the weight decay": ("log_decay",),
}


def levers(numbers: dict[str, float], cache: Path) -> None:
    """Prints, for all tasks and seeds, the averages with each lever set back, and with all of them."""
    variants = {"found": (), "nothing learned": tuple(NUMBERS)}
    variants |= {f"without {name}": members for name, members in LEVERS.items()}
    tried = np.array(
        [[0.0 if name in back else numbers[name] for name in NUMBERS] for back in variants.values()]
    )
    cells = [(name, steps) for name in SMALL for steps in (SHORT, LONG)] + [(n, OF_LARGE) for n in LARGE]
    runs: dict = {}
    found = [scores(tried, cells, seed, cache, runs) for seed in SEEDS]
    speed, validation = np.mean([pair[0] for pair in found], 0), np.mean([pair[1] for pair in found], 0)
    print(
        "| | speed-up, 200 steps | 1,000 steps | larger, 500 steps | validation, all |\n|---|---|---|---|---|"
    )
    masks = [np.array([steps == kind for _, steps in cells]) for kind in (SHORT, LONG, OF_LARGE)]
    for i, name in enumerate(variants):
        means = [np.exp(speed[i, mask].mean()) for mask in masks]
        row = [f"{mean:.2f}" for mean in (*means, np.exp(-validation[i].mean()))]
        print(f"| {name} | {' | '.join(row)} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("numbers", type=Path, nargs="?", default=FOUND)
    parser.add_argument(
        "--adam", type=Path, default=Path("runs/search_adam"), help="where Adam's curves are kept"
    )
    args = parser.parse_args()
    levers(json.loads(args.numbers.read_text()), args.adam)


if __name__ == "__main__":
    main()
