"""Completion of a low-rank matrix."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families.networks import NonNegative, Positive, PositiveInt, normal


def matrix_factorization(
    *,
    rows: PositiveInt = 24,
    columns: PositiveInt = 16,
    rank: PositiveInt = 3,
    true_rank: PositiveInt = 3,
    noise: NonNegative = 0.05,
    initial_std: Positive = 0.1,
    batch_size: PositiveInt = 64,
) -> TaskFamily:
    """Two factors fitted to random entries, `loss = mean (u_i v_j - m_ij)^2`; saddles at 0, flat valleys.

    Args:
      rows: of the matrix m.
      columns: of the matrix m.
      rank: of the factors u [rows, rank] and v [columns, rank].
      true_rank: of m, whose entries have variance 1.
      noise: standard deviation of fresh noise on the entries shown.
      initial_std: of the factors' entries at the start.
      batch_size: entries of a minibatch.

    Returns:
      A family without data; cfg {"m": f32[rows, columns]}; params {"u", "v"}.

    Source: Koren, Bell & Volinsky 2009.
    """

    def sample(key):
        key_u, key_v = jax.random.split(key)
        return {"m": normal(key_u, (rows, true_rank)) @ normal(key_v, (true_rank, columns)) * true_rank**-0.5}

    def task(cfg):
        def init(key):
            key_u, key_v = jax.random.split(key)
            return {
                "u": initial_std * normal(key_u, (rows, rank)),
                "v": initial_std * normal(key_v, (columns, rank)),
            }

        def loss(params, key, data):
            key_row, key_column, key_noise = jax.random.split(key, 3)
            i = jax.random.randint(key_row, (batch_size,), 0, rows)
            j = jax.random.randint(key_column, (batch_size,), 0, columns)
            target = cfg["m"][i, j] + noise * normal(key_noise, (batch_size,))
            return jnp.mean((jnp.sum(params["u"][i] * params["v"][j], axis=-1) - target) ** 2)

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
