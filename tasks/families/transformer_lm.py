"""Transformer language models of characters."""

import haiku as hk
import jax

from tasks.base import TaskFamily
from tasks.families import networks
from tasks.families.language import embed, language_model
from tasks.families.networks import PositiveInt, Range


def transformer_lm(
    *,
    texts: tuple[str, ...] = ("markov:1",),
    width: PositiveInt = 32,
    depth: PositiveInt = 1,
    heads: PositiveInt = 2,
    length: PositiveInt = 16,
    batch_size: PositiveInt = 8,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """Next-character prediction by a causal pre-norm transformer, nats per character.

    Args:
      texts: names as in `tasks.data.text.load_text` ("pydoc", "markov:SEED", "file:PATH"); a task draws one.
      width: of the residual stream; the MLPs are twice as wide.
      depth: blocks.
      heads: of the attention; must divide `width`.
      length: characters of context.
      batch_size: windows of a minibatch.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"text": i32[], "scale": f32[]}.

    Raises:
      ValueError: a number of heads that does not divide the width.

    Source: Vaswani et al. 2017, pre-norm as in Radford et al. 2019.
    """
    networks.check_heads(width, heads)

    def network(tokens: jax.Array, vocabulary: int) -> jax.Array:
        x = embed(tokens, vocabulary, width)
        x = x + hk.get_parameter("position", (length, width), init=networks.fan_in)
        return networks.linear(networks.transformer(x, depth, heads, causal=True), vocabulary, "head")

    return language_model(network, texts, batch_size, length, initial_scale)
