"""From a network over tokens to a language-modelling family: windows by key, next-token loss."""

from collections.abc import Callable, Sequence
from typing import Any

import haiku as hk
import jax
import jax.numpy as jnp

from tasks.base import Task, TaskFamily
from tasks.data.batches import windows
from tasks.data.text import stack_texts
from tasks.families import networks


def language_model(
    network: Callable[[jax.Array, int], jax.Array],
    texts: Sequence[str],
    batch_size: int,
    length: int,
    initial_scale: Any = 1.0,
    targets: Callable[[jax.Array], tuple[jax.Array, jax.Array]] = lambda w: (w[:, :-1], w[:, 1:]),
) -> TaskFamily:
    """Prediction of tokens from tokens, in nats per token.

    Args:
      network: `(tokens i32[B, length], vocabulary) -> logits`, run under `hk.transform`.
      texts: names as in `tasks.data.text.load_text`; a task draws one.
      batch_size: B.
      length: tokens that the network sees at a time.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.
      targets: `window i32[B, length + 1] -> (tokens, labels)`; by default each next token.

    Returns:
      A family whose cfg is {"text": i32[], "scale": f32[]}.
    """
    networks.check_range("initial_scale", initial_scale)
    stack = stack_texts(texts, length + 1)
    net = hk.without_apply_rng(hk.transform(lambda tokens: network(tokens, stack.vocabulary)))
    example = targets(jnp.zeros((1, length + 1), jnp.int32))[0]

    def sample(key):
        key_text, key_scale = jax.random.split(key)
        return {
            "text": jax.random.randint(key_text, (), 0, len(texts)),
            "scale": networks.sample_range(key_scale, initial_scale),
        }

    def task(cfg):
        def loss(params, key, data):
            tokens, labels = targets(windows(data, cfg["text"], key, batch_size, length + 1))
            return networks.cross_entropy(net.apply(params, tokens), labels)

        return Task(lambda key: networks.scaled(net.init(key, example), cfg["scale"]), loss)

    return TaskFamily(sample, task, stack.data)


def embed(tokens: jax.Array, vocabulary: int, width: int, name: str = "embedding") -> jax.Array:
    """[...] tokens -> [..., width] learnt vectors of variance 1 / width."""
    table = hk.get_parameter(
        name, (vocabulary, width), init=lambda shape, dtype: networks.fan_in((width, vocabulary), dtype).T
    )
    return table[tokens]
