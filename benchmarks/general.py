"""Writes the artefact `pretrained:general` again, from the numbers that were chosen for it.

    python benchmarks/general.py DIRECTORY

It is the `spectral` architecture with three numbers that differ from its initialisation, all chosen by
direct search over whole trainings on proxies of `benchmarks/spectral.py`: the level of the rate, how it falls
with the number of steps, and how much a tensor's rate rises where its successive gradients agree.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

import learned_opt
from benchmarks.spectral import PROXIES
from learned_opt.architectures.learned_rate import GROUPS
from learned_opt.artefact.card import PLACEHOLDER
from learned_opt.artefact.format import CARD

LEVEL = 0.03
HORIZON_POWER = 0.4  # the rate is proportional to T to the power of minus this
COSINE = 4.0  # log rate per unit of the cosine between a tensor's gradient and its momentum
EVALUATION = Path(__file__).parents[1] / "docs" / "pretrained" / "general.json"


def theta() -> dict[str, dict[str, np.ndarray]]:
    """The meta-parameters."""
    found = jax.tree.map(np.array, learned_opt.spectral().init(jax.random.key(0)))
    for group in GROUPS:
        found["schedule"][group][-1] = -HORIZON_POWER
        found["signals"][group][1] = COSINE
    return found


def main(directory: str) -> None:
    learned_opt.save(
        directory,
        name="spectral",
        options={"learning_rate": LEVEL},
        theta=theta(),
        horizon=(200, 1000),
        parameters=320_000,
        provenance={
            "made_by": "benchmarks/general.py",
            "method": "direct search over three numbers by whole trainings on proxies; no outer gradient",
        },
        config={"tasks": [{"label": label, **spec} for label, spec in PROXIES.items()], "seed": 0},
        evaluation=json.loads(EVALUATION.read_text()),
    )
    card = Path(directory) / CARD
    card.write_text(card.read_text().replace(PLACEHOLDER, "pretrained:general"))


if __name__ == "__main__":
    main(sys.argv[1])
