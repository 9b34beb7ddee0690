"""The learned optimizer that a population of meta-trainings found: its best member's."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from learned_opt import LearnedOptimizer
from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.config import load as config_lib
from meta_train.config.schema import RunConfig
from meta_train.errors import RunError
from meta_train.population import lineage
from meta_train.population.config import MemberMesh, PopulationConfig
from meta_train.population.engine import to_device
from meta_train.population.meta_training import SIGMA, TINY, WEIGHT, run_settings
from meta_train.population.replay import winners_schedule
from meta_train.population.run import build_population, load_config
from meta_train.run.directory import CHECKPOINTS, refuse_changed
from meta_train.run.experiment import learned_optimizer

TRAINER = "meta_training"


class Best(NamedTuple):
    """What a finished population of meta-trainings has learned."""

    lopt: LearnedOptimizer  # the learned optimizer
    theta: Any  # moving average of the best member's meta-parameters, on the host
    settings: RunConfig  # of its meta-training, what was searched at its last value
    outer_step: int  # that theta is of
    # the population, the member, the round, the fitness and the schedule, as JSON values
    provenance: dict[str, Any]


def load_best(directory: Path, warn: Callable[[str], None]) -> Best:
    """The best member of a finished population, from its last checkpoint.

    Raises:
      RunError: another trainer's population, one that is not finished, or whose config.yaml was changed.
      CheckpointError: the checkpoint is damaged.
    """
    config = load_config(directory)
    if config.trainer["name"] != TRAINER:
        raise RunError(
            f"{directory} is a population of the trainer {config.trainer['name']}: only one of {TRAINER} "
            "has a learned optimizer"
        )
    schedule = winners_schedule(directory)
    slot, rounds = int(schedule.slots[-1]), len(schedule.slots)
    with Checkpoints(directory / CHECKPOINTS, warn=warn) as checkpoints:
        restored = checkpoints.restore(_on_host(config), step=rounds)
    assert restored is not None
    refuse_changed(directory, rounds, restored.meta, warn)
    theta = jax.tree.map(lambda x: x[slot], restored.state.weights["ema"])
    last = {name: float(values[-1]) for name, values in schedule.hypers.items()}
    settings = _with_values(run_settings(config.trainer["config"], tuple(config.hypers)), last)
    provenance = {
        "population": Path(directory).resolve().name,
        "member": slot,
        "round": rounds,
        "outer_step": rounds * config.round_steps,
        "fitness": float(schedule.fitness[-1]),
        "schedule": lineage.pieces(schedule),
    }
    return Best(learned_optimizer(settings), theta, settings, provenance["outer_step"], provenance)


def _on_host(config: PopulationConfig) -> Any:
    """A template to restore the members' checkpoint into: NumPy arrays, whatever devices this machine has."""
    run = build_population(config.model_copy(update={"mesh": MemberMesh()}))
    zeros = {name: np.zeros(run.controller.num_members) for name in run.space}
    members = jax.eval_shape(run.engine.init, jax.random.key(0), to_device(run.space, zeros))

    def host(x):
        return x if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else np.empty(x.shape, x.dtype)

    return jax.tree.map(host, members)


def _with_values(settings: RunConfig, values: dict[str, float]) -> RunConfig:
    """The settings with the values of hyperparameters filled in."""
    raw = config_lib.resolved(settings)
    for name, value in values.items():
        if name == SIGMA:
            raw["estimator"][SIGMA] = value
        elif name.startswith(WEIGHT):
            (task,) = (task for task in raw["tasks"] if task["label"] == name.removeprefix(WEIGHT))
            task["weight"] = max(value, TINY)
        else:
            raw["outer_optimizer"][name] = value
    return config_lib.parse(raw)
