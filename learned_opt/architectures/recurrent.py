"""What optimizers with an LSTM for each tensor share: its state, statistics, the history of the loss."""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp


def init_lstm_state(hidden: int) -> hk.LSTMState:
    """The meta-parameters `lstm_init_state`: hidden and cell, f32[1, hidden], zero."""
    return hk.LSTMState(jnp.zeros([1, hidden]), jnp.zeros([1, hidden]))


def for_tensors(state: hk.LSTMState, tensors: int) -> hk.LSTMState:
    """The same initial state, f32[1, hidden], for each tensor: f32[tensors, hidden]."""
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (tensors, x.shape[1])), state)


def log_magnitude(x: jax.Array) -> jax.Array:
    """`log |x|`, clipped to [-5, 5]."""
    return jnp.clip(jnp.log(1e-8 + jnp.abs(x)), -5, 5)


def moments(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Mean and population variance of all elements, f32[] each."""
    mean = jnp.mean(x)
    return mean, jnp.mean(jnp.square(x - mean))


def norm(x: jax.Array) -> jax.Array:
    """Euclidean norm, f32[], whose derivative at 0 is 0."""
    return jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(x)), 1e-30))


class LossBuffer(NamedTuple):
    """Running means of the loss at 10 decays.

    Attributes:
      mean: f32[10], without bias correction.
      minimum: f32[10], the smallest corrected mean so far.
      count: i32[], losses so far.
    """

    mean: jax.Array
    minimum: jax.Array
    count: jax.Array


def init_loss_buffer() -> LossBuffer:
    """The buffer before the first loss."""
    return LossBuffer(jnp.zeros(10), jnp.full(10, 999999999999.0, jnp.float32), jnp.zeros([], jnp.int32))


def push_loss(buffer: LossBuffer, loss: jax.Array, num_steps) -> tuple[jax.Array, LossBuffer]:
    """Features of the loss, f32[9] in [-1, 1], 0 at the first two; and the buffer after it.

    Half-lives go from 10 to num_steps. The features compare each mean with the next longer one,
    relative to the minimum. A loss above twice the largest mean is cut there.
    """
    decays = jnp.exp(-1 / jnp.logspace(1, jnp.log10(num_steps), 10))
    count = buffer.count + 1
    correction = 1 - decays**count
    largest = jnp.where(buffer.count == 0, loss, jnp.max(buffer.mean / correction))
    loss = jnp.minimum(2 * jnp.abs(largest), loss)
    mean = decays * buffer.mean + (1 - decays) * loss
    corrected = mean / correction
    minimum = jnp.minimum(buffer.minimum, corrected)
    above = corrected[:-1] - minimum[:-1]
    features = above / jnp.maximum(1e-8, corrected[1:] - minimum[:-1]) - 1
    return jnp.where(count <= 2, 0.0, jnp.clip(features, -1, 1)), LossBuffer(mean, minimum, count)
