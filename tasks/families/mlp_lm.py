"""Feed-forward language models of characters."""

import jax

from tasks.base import TaskFamily
from tasks.families import networks
from tasks.families.language import embed, language_model
from tasks.families.networks import Activation, PositiveInt, Range, Widths


def mlp_lm(
    *,
    texts: tuple[str, ...] = ("markov:1",),
    context: PositiveInt = 4,
    embedding: PositiveInt = 8,
    hidden: Widths = (32,),
    activation: Activation = "tanh",
    batch_size: PositiveInt = 64,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """One character from the `context` before it, by an MLP on embeddings (Bengio et al. 2003).

    Args:
      texts: names as in `tasks.data.text.load_text` ("pydoc", "markov:SEED", "file:PATH"); a task draws one.
      context: characters seen.
      embedding: width of a character's vector.
      hidden: widths of the hidden layers.
      activation: after every hidden layer.
      batch_size: characters predicted in a minibatch.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"text": i32[], "scale": f32[]}.

    Source: Bengio et al. 2003.
    """

    def network(tokens: jax.Array, vocabulary: int) -> jax.Array:
        x = embed(tokens, vocabulary, embedding).reshape(len(tokens), -1)
        return networks.mlp(x, hidden, vocabulary, activation)

    last = lambda window: (window[:, :-1], window[:, -1])  # noqa: E731
    return language_model(network, texts, batch_size, context, initial_scale, last)
