"""Recurrent networks on tasks of memory: theta is the network, one step reads one symbol."""

from typing import Annotated, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from meta_train.core.system import UnrolledSystem
from reproductions.systems.outer_problem import OuterProblem

Problem = Literal["copy", "adding", "text"]
Core = Literal["lstm", "vanilla"]
SYMBOLS = 2  # that the copy task must keep
LETTERS = 27  # the space and a to z


class RecurrentState(NamedTuple):
    """hidden: f32[H], of an LSTM the pair (hidden, cell); row: i32[], the sequence; position: i32[] in it."""

    hidden: jax.Array | tuple[jax.Array, jax.Array]
    row: jax.Array
    position: jax.Array


def recurrent(
    *,
    problem: Problem = "adding",
    core: Core = "lstm",
    hidden: Annotated[int, Ge(1)] = 8,
    length: Annotated[int, Ge(4)] = 20,
    kept: Annotated[int, Ge(1)] = 4,
    rows: Annotated[int, Ge(1)] = 8192,
    seed: Annotated[int, Ge(0)] = 0,
) -> OuterProblem:
    """A network that reads a sequence and answers; one inner problem is one sequence.

    * copy: `kept` random bits, blanks, a signal in the last of them, and then as many blanks, in which the
      bits are to be repeated. Loss: cross-entropy in nats, ln 2 = 0.693 for a guess.
    * adding: uniform numbers in [0, 1), one marked in the first quarter and one in the second; the answer
      after the last number is to be the sum of the two. Loss: squared error, 1/6 for the constant answer 1.
    * text: English in 27 letters (capitals in lower case, the rest as single spaces), and the next letter is
      to be predicted. Loss: cross-entropy in nats.

    The mean loss per step of an inner problem is the mean over what is to be answered: a step's loss counts
    `length` divided by the number of answers, and 0 where nothing is to be answered. Differentiable.

    Args:
      problem: as above.
      core: "lstm" (forget gates begin at a bias of 1), or "vanilla", `h <- tanh(V x + W h + b)` (W begins
        as the identity).
      hidden: H, numbers in the hidden state, and as many in an LSTM's cell.
      length: T, symbols of a sequence.
      kept: bits of the copy task; at most (length - 1) / 2.
      rows: sequences that inner problems are drawn from.
      seed: of the sequences; text with an odd seed is from the last tenth, otherwise from the rest.

    Returns:
      A problem with data {"inputs": [rows, T, ...], "targets": [rows, T]}.

    Raises:
      ValueError: bits that do not fit into the sequence.

    Source: Hochreiter & Schmidhuber, "Long Short-Term Memory", Neural Computation 1997 (adding); Arjovsky,
      Shah & Bengio, "Unitary Evolution Recurrent Neural Networks", ICML 2016 (copy).
    Differs from it in: sizes, and blanks before the signal that are not to be answered.
    """
    import haiku as hk

    from tasks.families.networks import cross_entropy

    inputs, targets, answers = _sequences(problem, length, kept, rows, np.random.default_rng(seed), seed % 2)
    outputs = {"copy": SYMBOLS, "adding": 1, "text": LETTERS}[problem]
    symbols = {"copy": SYMBOLS + 2, "adding": None, "text": LETTERS}[problem]
    weights = jnp.asarray(answers * length / answers.sum(), jnp.float32)
    zeros = jnp.zeros(hidden)
    blank = (zeros, zeros) if core == "lstm" else zeros

    def network(x, state):
        x = x if symbols is None else jax.nn.one_hot(x, symbols)
        if core == "lstm":
            output, after = hk.LSTM(hidden)(x, hk.LSTMState(*state))
            state = (after.hidden, after.cell)
        else:
            w = hk.get_parameter("recurrent", (hidden, hidden), init=hk.initializers.Identity())
            output = state = jnp.tanh(hk.Linear(hidden, name="cell")(x) + state @ w)
        return hk.Linear(outputs, name="head")(output), state

    net = hk.without_apply_rng(hk.transform(network))

    def init(theta, key):
        row = jax.random.randint(key, (), 0, rows)
        return RecurrentState(blank, row, jnp.zeros([], jnp.int32)), jnp.full([], length, jnp.int32)

    def step(theta, state, key, data):
        x, target = (data[name][state.row, state.position] for name in ("inputs", "targets"))
        answer, after = net.apply(theta, x, state.hidden)
        loss = jnp.square(answer[0] - target) if problem == "adding" else cross_entropy(answer, target)
        return RecurrentState(after, state.row, state.position + 1), weights[state.position] * loss

    return OuterProblem(
        UnrolledSystem(init, step, length, length, worst_loss=100.0 * length),
        lambda key: net.init(key, jnp.asarray(inputs[0, 0]), blank),
        {"inputs": jnp.asarray(inputs), "targets": jnp.asarray(targets)},
    )


def _sequences(problem: Problem, t: int, kept: int, rows: int, rng: np.random.Generator, held_out: int):
    """Inputs [rows, T, ...], targets [rows, T], and whether each of the T steps is answered, bool[T]."""
    if problem == "copy":
        if 2 * kept >= t:
            raise ValueError(f"kept must be at most (length - 1) / 2 ({(t - 1) // 2}), got {kept}")
        bits = rng.integers(0, SYMBOLS, (rows, kept), np.int32)
        inputs = np.full((rows, t), SYMBOLS, np.int32)
        inputs[:, :kept], inputs[:, -kept - 1] = bits, SYMBOLS + 1
        targets = np.zeros((rows, t), np.int32)
        targets[:, -kept:] = bits
        return inputs, targets, np.arange(t) >= t - kept
    if problem == "adding":
        values, marks = rng.random((rows, t), np.float32), np.zeros((rows, t), np.float32)
        for low, high in ((0, t // 4), (t // 4, t // 2)):
            marks[np.arange(rows), rng.integers(low, high, rows)] = 1
        targets = np.zeros((rows, t), np.float32)
        targets[:, -1] = (values * marks).sum(1)
        return np.stack([values, marks], -1), targets, np.arange(t) == t - 1
    letters = _letters()
    cut = len(letters) * 9 // 10
    low, high = (cut, len(letters)) if held_out else (0, cut)
    found = letters[rng.integers(low, high - t, rows)[:, None] + np.arange(t + 1)]
    return found[:, :-1], found[:, 1:], np.ones(t, bool)


def _letters() -> np.ndarray:
    """i32[length]: the reference documentation of Python, 0 a space and 1 to 26 the letters."""
    from tasks.data.text import load_text

    codes = load_text("pydoc[:300000]").tokens.astype(np.int32) + 30  # token 2 is byte 32
    lower = np.where((codes >= ord("A")) & (codes <= ord("Z")), codes + 32, codes)
    letters = np.where((lower >= ord("a")) & (lower <= ord("z")), lower - 96, 0)
    return letters[(letters > 0) | (np.roll(letters, 1) > 0)]  # one space for several
