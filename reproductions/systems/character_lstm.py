"""A small LSTM that reads one long text online: theta is the network, the state is what it remembers."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from meta_train.core.system import ENDLESS, UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem

Scenario = Literal["real", "random", "repeat"]


class CharacterLSTMState(NamedTuple):
    """hidden, cell: f32[hidden]; position: i32[], the character that is read next."""

    hidden: jax.Array
    cell: jax.Array
    position: jax.Array


def character_lstm(
    *,
    text: str = "pydoc[:100000]",
    scenario: Scenario = "real",
    hidden: Annotated[int, Ge(1)] = 5,
    embedding: Annotated[int, Ge(1)] = 5,
    unroll_length: Annotated[int, Ge(1)] | None = 1000,
    random_start: bool = True,
) -> OuterProblem:
    """Next-character prediction, one character a step (Vicol et al. 2021, the variance figure).

    An embedding, an LSTM and a linear layer, as a Haiku tree: |theta| = 1,287 with the defaults.
    Loss per step: cross-entropy of the next character, in nats. Differentiable.

    Args:
      text: name as in `tasks.data.text.load_text`; read in a circle.
      scenario: the text as it is ("real"), as many uniform draws of the characters that occur in it
        ("random"), or its most frequent character over and over ("repeat").
      hidden: numbers in the hidden state, and as many in the cell.
      embedding: numbers that stand for a character.
      unroll_length: T, characters from one zero state to the next; None for a text without end.
      random_start: whether each inner problem begins at a place of its own, or all at the first character.

    Returns:
      A problem whose data is {"tokens": u8[length]}.

    Raises:
      ValueError: a text that cannot be loaded.

    Source: Vicol, Metz & Sohl-Dickstein, ICML 2021, and the paper's public code.
    Differs from it in: the text (Penn Treebank there).
    """
    import haiku as hk

    from tasks.data.text import load_text
    from tasks.families.networks import cross_entropy

    source = load_text(text)
    tokens = _arrange(source.tokens, scenario)

    def network(token, hidden_state, cell):
        embedded = hk.Embed(source.vocabulary, embedding)(token)
        output, state = hk.LSTM(hidden)(embedded, hk.LSTMState(hidden_state, cell))
        return hk.Linear(source.vocabulary)(output), state

    net = hk.without_apply_rng(hk.transform(network))
    zeros = jnp.zeros(hidden)

    def init(theta, key):
        start = jax.random.randint(key, (), 0, len(tokens) - 1) if random_start else jnp.zeros([], jnp.int32)
        length = jnp.full([], unroll_length or ENDLESS, jnp.int32)
        return CharacterLSTMState(zeros, zeros, start), length

    def step(theta, state, key, data):
        read, position = data["tokens"], state.position
        logits, after = net.apply(theta, read[position].astype(jnp.int32), state.hidden, state.cell)
        loss = cross_entropy(logits, read[position + 1].astype(jnp.int32))
        # The last character is only ever predicted: the next one to be read is the first.
        return CharacterLSTMState(after.hidden, after.cell, (position + 1) % (len(read) - 1)), loss

    return OuterProblem(
        UnrolledSystem(init, step, unroll_length or 0, unroll_length, worst_loss=100.0),
        lambda key: net.init(key, jnp.zeros([], jnp.int32), zeros, zeros),
        {"tokens": jnp.asarray(tokens)},
    )


def _arrange(tokens: np.ndarray, scenario: Scenario) -> np.ndarray:
    """u8[length]: the tokens of a scenario; the random ones are the same in every process."""
    if scenario == "real":
        return tokens
    occurring, counts = np.unique(tokens, return_counts=True)
    if scenario == "random":
        return np.random.default_rng(0).choice(occurring, len(tokens))
    return np.full_like(tokens, occurring[counts.argmax()])
