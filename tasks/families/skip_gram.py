"""Skip-gram embeddings of characters."""

import jax

from tasks.base import TaskFamily
from tasks.families import networks
from tasks.families.language import embed, language_model
from tasks.families.networks import PositiveInt, Range


def skip_gram(
    *,
    texts: tuple[str, ...] = ("markov:1",),
    distance: PositiveInt = 2,
    embedding: PositiveInt = 16,
    batch_size: PositiveInt = 128,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """One character from another at a fixed distance, by the product of two embeddings (Mikolov et al. 2013).

    A full softmax instead of negative sampling; the gradient of either table is sparse.

    Args:
      texts: names as in `tasks.data.text.load_text` ("pydoc", "markov:SEED", "file:PATH"); a task draws one.
      distance: from the given character to the predicted one.
      embedding: width of both tables.
      batch_size: pairs of a minibatch.
      initial_scale: factor on the initial tables, a number or a log-uniform range.

    Returns:
      A family with cfg {"text": i32[], "scale": f32[]}.

    Source: Mikolov et al. 2013.
    """

    def network(tokens: jax.Array, vocabulary: int) -> jax.Array:
        center = embed(tokens, vocabulary, embedding, "center")
        return networks.linear(center, vocabulary, "context", with_bias=False)

    ends = lambda window: (window[:, 0], window[:, -1])  # noqa: E731
    return language_model(network, texts, batch_size, distance, initial_scale, ends)
