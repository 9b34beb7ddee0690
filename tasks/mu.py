"""The maximal-update parameterisation of a network, muP: what muLO asks of its tasks."""

import re
from typing import Any

import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily
from tasks.families.networks import Positive, normal

TRUNCATED = 0.87962566  # standard deviation of a unit normal cut at 2


def mu_parameterised(
    family: TaskFamily, *, output_layer: str = r"^linear_1\.", output_mult: Positive = 1.0
) -> TaskFamily:
    """A network whose best optimizer settings do not depend on its width (muP; Yang et al. 2022).

    The weights of the output layer start at zero and its outputs are multiplied by `output_mult` / fan-in;
    the other matrices start with variance 1 / fan-in, biases standard normal. The optimizer's half
    is a step of hidden weights in proportion to 1 / fan-in: `mulo` with the option hidden_weights.

    Args:
      family: what is augmented: an MLP or another network with one output layer and Haiku's initial matrices.
      output_layer: regular expression that is found in the paths of the output layer's weights and bias, and
        in no other. A path is the keys joined by dots: "linear_1.w" in `image_mlp` and `teacher_mlp` with one
        hidden layer, "linear_2.w" with two.
      output_mult: the factor of the outputs at width 1; to keep them at a base width, that width.

    Returns:
      A family with the same cfg.

    Raises:
      ValueError: `output_layer` finds no matrix.

    Source: arXiv 2406.00153 (muLO). Differs from it in: nothing.
    """

    def width(params: Any) -> int:
        found = [p for path, p in _paths(params) if re.search(output_layer, path) and p.ndim >= 2]
        if not found:
            names = ", ".join(path for path, _ in _paths(params))
            raise ValueError(f"output_layer: {output_layer} is found in no matrix of {names}")
        return found[0].size // found[0].shape[-1]

    def task(cfg):
        inner = family.task(cfg)

        def init(key):
            key_params, key_biases = jax.random.split(key)
            leaves = _paths(params := inner.init(key_params))
            keys = jax.random.split(key_biases, len(leaves))

            def start(path, p, key):
                if p.ndim < 2:
                    return normal(key, p.shape).astype(p.dtype)
                return jnp.zeros_like(p) if re.search(output_layer, path) else p / TRUNCATED

            started = [start(path, p, k) for (path, p), k in zip(leaves, keys, strict=True)]
            return jax.tree.unflatten(jax.tree.structure(params), started)

        def loss(params, key, data):
            factor = output_mult / width(params)
            scaled = [p * factor if re.search(output_layer, path) else p for path, p in _paths(params)]
            return inner.loss(jax.tree.unflatten(jax.tree.structure(params), scaled), key, data)

        return Task(init, loss)

    width(jax.eval_shape(lambda key: family.task(family.sample(key)).init(key), jax.random.key(0)))
    return family._replace(task=task)


def _paths(params: Any) -> list[tuple[str, jax.Array]]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [(jax.tree_util.keystr(path, simple=True, separator="."), p) for path, p in leaves]
