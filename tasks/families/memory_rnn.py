"""Recurrent networks that must remember."""

from typing import Annotated, Literal

import annotated_types as at
import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily, fixed
from tasks.families import networks
from tasks.families.networks import Core, PositiveInt, normal


def memory_rnn(
    *,
    problem: Literal["adding", "recall"] = "adding",
    core: Core = "gru",
    width: PositiveInt = 16,
    length: Annotated[int, at.Ge(2)] = 10,
    batch_size: PositiveInt = 32,
) -> TaskFamily:
    """Long-range synthetic problems (Hochreiter & Schmidhuber 1997), mean squared error of one number.

    Args:
      problem: adding (the sum of the two marked numbers of the sequence, in units where 0 is the
        mean) or recall (the number shown first).
      core: vanilla (tanh), gru or lstm.
      width: of the state.
      length: of the sequences, at least 2.
      batch_size: fresh sequences of a minibatch, of N(0, 1) numbers.

    Returns:
      A family without data; one task, cfg ().

    Source: Hochreiter & Schmidhuber 1997.
    """

    def network(x: jax.Array) -> jax.Array:
        return networks.linear(networks.recurrent(x, width, core)[:, -1], 1, "head")[:, 0]

    init, apply = networks.pure(network, 1, length, 2)

    def loss(params, key, data):
        key_numbers, key_first, key_gap = jax.random.split(key, 3)
        numbers = normal(key_numbers, (batch_size, length))
        first = jax.random.randint(key_first, (batch_size,), 0, length)
        second = (first + jax.random.randint(key_gap, (batch_size,), 1, length)) % length
        marks = jax.nn.one_hot(first, length) + jax.nn.one_hot(second, length)
        target = jnp.sum(marks * numbers, axis=-1)
        if problem == "recall":
            marks, target = jnp.zeros_like(marks).at[:, 0].set(1.0), numbers[:, 0]
        output = apply(params, jnp.stack([numbers, marks], axis=-1))
        return jnp.mean((output - target) ** 2)

    return fixed(Task(init, loss))
