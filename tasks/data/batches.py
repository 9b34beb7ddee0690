"""Minibatches drawn by key, on the device, inside the loss.

Augmentations may put further entries into the data: `BATCH_FRACTION` and `LABEL_NOISE`.
"""

from typing import Any

import jax
import jax.numpy as jnp

BATCH_FRACTION = "batch_fraction"  # f32[]: only so much of a minibatch is distinct
LABEL_NOISE = "label_noise"  # f32[]: probability that a label is replaced


def minibatch(data: Any, dataset: jax.Array, key: jax.Array, batch_size: int) -> tuple[jax.Array, jax.Array]:
    """`batch_size` rows of one stacked data set, drawn with replacement. The key is consumed.

    Args:
      data: one split of `datasets.Stack.data`.
      dataset: i32[], which data set of the stack.
      key: picks the rows; padding is never drawn.
      batch_size: B.

    Returns:
      x f32[B, *shape] and y [B].
    """
    rows = jax.random.randint(key, (batch_size,), 0, data["rows"][dataset])
    rows = _repeat_first(data, rows)
    x, y = data["x"][dataset, rows], data["y"][dataset, rows]
    if LABEL_NOISE in data:
        key_which, key_class = jax.random.split(jax.random.fold_in(key, 1))
        replaced = jax.random.uniform(key_which, y.shape, jnp.float32) < data[LABEL_NOISE]
        y = jnp.where(replaced, jax.random.randint(key_class, y.shape, 0, data["classes"][dataset]), y)
    return x, y


def windows(data: Any, text: jax.Array, key: jax.Array, batch_size: int, window: int) -> jax.Array:
    """i32[batch_size, window]: pieces of one stacked text at random places. The key is consumed.

    Args:
      data: one split of `text.TextStack.data`.
      text: i32[], which text of the stack.
      key: picks the places.
      batch_size: number of windows.
      window: tokens of each.

    Returns:
      Token numbers.
    """
    starts = jax.random.randint(key, (batch_size,), 0, data["length"][text] - window + 1)
    starts = _repeat_first(data, starts)
    return data["tokens"][text, starts[:, None] + jnp.arange(window)].astype(jnp.int32)


def _repeat_first(data: Any, rows: jax.Array) -> jax.Array:
    if BATCH_FRACTION not in data:
        return rows
    distinct = jnp.maximum(data[BATCH_FRACTION] * len(rows), 1).astype(jnp.int32)
    return rows[jnp.arange(len(rows)) % distinct]
