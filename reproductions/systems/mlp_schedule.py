"""Two meta-parameters of an MLP's training: the learning rate and its decay."""

import math
from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt, Lt

from meta_train.core.system import UnrolledSystem
from reproductions.systems.classifier import Objective, classifier, no_gradient, worst_loss
from reproductions.systems.outer_problem import OuterProblem


class MLPScheduleState(NamedTuple):
    """params: the MLP's; velocity: like params; t: i32[], steps taken."""

    params: Any
    velocity: Any
    t: jax.Array


def mlp_schedule(
    *,
    dataset: str = "digits",
    hidden: tuple[Annotated[int, Ge(1)], ...] = (100, 100),
    batch_size: Annotated[int, Ge(1)] = 100,
    unroll_length: Annotated[int, Ge(1)] = 5000,
    momentum: Annotated[float, Ge(0), Lt(1)] = 0.9,
    objective: Objective = "train",
    initial_rate: Annotated[float, Gt(0)] = 0.003,
    initial_decay: Annotated[float, Gt(0)] = 30.0,
) -> OuterProblem:
    """The learning-rate schedule of an MLP's training (Vicol et al. 2021, section 5.3).

    SGD with momentum and inverse-time decay: `rate_t = a / (1 + t / T)^b`, theta = (log a, log b), f32[2].
    A window that is short finds a rate that falls at once good: it quiets the minibatches' noise.
    The meta-objective is the mean over the T steps (T times it is the sum; the gradients differ by T).

    Args:
      dataset: name as in `tasks.data.datasets.load`: digits, tfds:mnist, ...
      hidden: widths of the hidden layers.
      batch_size: rows of a minibatch, drawn with replacement.
      unroll_length: T.
      momentum: of SGD.
      objective: "train", cross-entropy of the minibatch that a step trains on, before the step; "valid", of
        a validation minibatch after it; "accuracy", 1 - the accuracy on one, which has no gradient.
      initial_rate: a at the beginning of outer training.
      initial_decay: b there.

    Returns:
      A problem whose data is {"train": arrays, "valid": arrays}.

    Raises:
      ValueError: a data set that cannot be loaded, or a regression.

    Source: Vicol, Metz & Sohl-Dickstein, ICML 2021, and the paper's public code.
    Differs from it in: digits by default; no weight decay (1e-10 there); every particle draws minibatches
      of its own; the paper's validation split is 10,000 of MNIST's training images.
    """
    model = classifier(dataset, hidden, batch_size, objective)

    def init(theta, key):
        params = model.init(key)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return MLPScheduleState(params, zeros, jnp.zeros([], jnp.int32)), jnp.int32(unroll_length)

    def step(theta, state, key, data):
        key_train, key_valid = jax.random.split(key)
        loss, grads = jax.value_and_grad(model.loss)(state.params, None, key_train, data)
        rate = rate_at(theta, state.t, unroll_length)
        velocity = jax.tree.map(lambda v, g: momentum * v + g, state.velocity, grads)
        params = jax.tree.map(lambda p, v: p - rate * v, state.params, velocity)
        if objective != "train":
            loss = model.score(params, None, key_valid, data)
        return MLPScheduleState(params, velocity, state.t + 1), loss

    system = UnrolledSystem(
        init, step, unroll_length, unroll_length, worst_loss(objective), no_gradient(objective)
    )
    start = jnp.asarray([math.log(initial_rate), math.log(initial_decay)], jnp.float32)
    return OuterProblem(system, lambda key: start, model.data)


def rate_at(theta: jax.Array, t: jax.Array, unroll_length: int) -> jax.Array:
    """f32[]: the learning rate of step t = 0, ..., T - 1. theta: f32[2]."""
    return jnp.exp(theta[0] - jnp.exp(theta[1]) * jnp.log1p(t / unroll_length))
