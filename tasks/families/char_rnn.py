"""Recurrent language models of characters."""

import jax

from tasks.base import TaskFamily
from tasks.families import networks
from tasks.families.language import embed, language_model
from tasks.families.networks import Core, PositiveInt, Range


def char_rnn(
    *,
    texts: tuple[str, ...] = ("markov:1",),
    core: Core = "gru",
    width: PositiveInt = 32,
    length: PositiveInt = 16,
    batch_size: PositiveInt = 16,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """Next-character prediction by a recurrent network, nats per character.

    Args:
      texts: names as in `tasks.data.text.load_text` ("pydoc", "markov:SEED", "file:PATH"); a task draws one.
      core: vanilla (tanh), gru or lstm.
      width: of the state, and of the embedding.
      length: characters that gradients flow through; the state starts at zero.
      batch_size: windows of a minibatch.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"text": i32[], "scale": f32[]}.

    Source: the character models of TaskSet (Metz et al. 2020); Karpathy 2015.
    """

    def network(tokens: jax.Array, vocabulary: int) -> jax.Array:
        h = networks.recurrent(embed(tokens, vocabulary, width), width, core)
        return networks.linear(h, vocabulary, "head")

    return language_model(network, texts, batch_size, length, initial_scale)
