"""What a run will take, before anything is compiled."""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from meta_train.core.outer import make_outer_step
from meta_train.run.experiment import Experiment
from meta_train.run.memory import forecast_bytes


class Forecast(NamedTuple):
    """What a run will take, by shapes alone. Sizes in bytes.

    Attributes:
      num_meta_parameters: |theta|.
      particles: state of all particles: inner states of both halves of each pair, accumulated noise, keys.
      noise: 3 N |theta| floats: the accumulated noise (which is part of `particles`), and theta +- eps
        while a window runs.
      data: of all families.
      memory: of one device while an outer step runs, all in all, by the jaxpr alone: about.
      inner_steps: steps of inner training in one outer step.
    """

    num_meta_parameters: int
    particles: int
    noise: int
    data: int
    memory: int
    inner_steps: int


def forecast(experiment: Experiment) -> Forecast:
    """Measures the experiment's shapes; compiles nothing."""
    init, step = experiment.outer
    if experiment.config.rotation is not None:  # as if all families were active: at most that
        init, step = make_outer_step(experiment.lopt.init, experiment.estimator, optax.identity())
    state = jax.eval_shape(init, jax.random.key(0))
    num_meta_parameters = sum(math.prod(x.shape) for x in jax.tree.leaves(state.theta))
    data, working = tree_bytes(experiment.data), forecast_bytes(step, state, experiment.data)
    return Forecast(
        num_meta_parameters,
        tree_bytes(state.estimator_state),
        3 * experiment.estimator.num_particles * tree_bytes(state.theta),
        data,
        data + tree_bytes(state) // experiment.mesh.size + working,
        experiment.estimator.inner_steps,
    )


def tree_bytes(tree: Any) -> int:
    """Bytes of all leaves, concrete or abstract; a PRNG key counts 8."""
    leaves = jax.tree.leaves(tree)
    return sum(
        math.prod(x.shape) * (8 if jnp.issubdtype(x.dtype, jax.dtypes.extended) else x.dtype.itemsize)
        for x in leaves
    )
