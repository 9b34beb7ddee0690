"""Scores sets of numbers for `pretrained:general` on all tasks of the search, at seeds that no search has.

    python -m benchmarks.score benchmarks/general_numbers.json benchmarks/second_seed.jsonl [--seeds 104 105]

A set of numbers is a JSON file of them, or the log of a search, whose last numbers count. Every small task is
trained at 200 and at 1,000 steps, the two larger ones at 500. Printed are the geometric means of the step
speed-up over Adam and of the validation loss over Adam's best one, with the standard error of its logarithm
over cells, and the search's score. Adam's curves are kept in runs/search_adam.
"""

import argparse
import json
from pathlib import Path

import numpy as np

from benchmarks.search import LARGE, LONG, NUMBERS, OF_LARGE, SHORT, SMALL, VALIDATION, score, scores

CELLS = [(name, steps) for steps in (SHORT, LONG) for name in SMALL] + [(name, OF_LARGE) for name in LARGE]


def numbers_of(path: Path) -> list[float]:
    """The numbers of a file, in the order of NUMBERS.

    Raises:
      OSError: the file cannot be read.
      ValueError: it does not have all of the numbers.
    """
    text = path.read_text()
    try:
        of = json.loads(text.splitlines()[-1])["mean"] if path.suffix == ".jsonl" else json.loads(text)
        return [of[name] for name in NUMBERS]
    except (KeyError, TypeError, IndexError, ValueError) as error:
        raise ValueError(
            f"{path} must be a JSON file of {len(NUMBERS)} numbers, or a search's log"
        ) from error


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path)
    parser.add_argument("--seeds", nargs="+", type=int, default=[104, 105])
    parser.add_argument("--weight", type=float, default=VALIDATION, help="of the validation losses")
    args = parser.parse_args()
    try:
        candidates, runs = np.array([numbers_of(path) for path in args.files]), {}
    except (OSError, ValueError) as error:
        parser.error(str(error))
    found = [scores(candidates, CELLS, seed, Path("runs/search_adam"), runs) for seed in args.seeds]
    speed, validation = (np.concatenate(column, 1) for column in zip(*found, strict=True))
    each = score(speed, validation, args.weight)
    for path, fast, good, value in zip(args.files, speed, validation, each, strict=True):
        ratios = [(np.exp(x.mean()), x.std() / np.sqrt(len(x))) for x in (fast, -good)]
        shown = [f"{ratio:.2f} (log +- {error:.2f})" for ratio, error in ratios]
        print(f"{path}: speed-up {shown[0]}, validation {shown[1]}, score {value:.2f}", flush=True)
        for steps in (SHORT, LONG, OF_LARGE):
            here = [i for i, cell in enumerate(CELLS * len(args.seeds)) if cell[1] == steps]
            means = np.exp(fast[here].mean()), np.exp(-good[here].mean())
            print(f"  {steps} steps: speed-up {means[0]:.2f}, validation {means[1]:.2f}", flush=True)


if __name__ == "__main__":
    main()
