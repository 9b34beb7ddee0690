"""Recurrent networks as unrolled systems, and their training."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from reproductions import learning
from reproductions.recurrent import CASES, METHODS, RECORDS, draw, summary, training
from reproductions.systems.recurrent import LETTERS, recurrent


def losses_of(problem, theta, row):
    """The T losses of one sequence."""
    state = problem.system.init(theta, jax.random.key(0))[0]._replace(row=jnp.int32(row))
    length = problem.system.length_multiple

    def step(state, _):
        return problem.system.step(theta, state, jax.random.key(0), problem.data)

    return np.asarray(jax.jit(lambda s: jax.lax.scan(step, s, None, length)[1])(state))


def test_the_sequences_are_what_they_say():
    copy, adding, text = (
        recurrent(problem=p, length=12, kept=3, rows=50).data for p in ("copy", "adding", "text")
    )
    inputs, targets = (np.asarray(copy[name]) for name in ("inputs", "targets"))
    np.testing.assert_array_equal(inputs[:, :3], targets[:, -3:])
    np.testing.assert_array_equal(inputs[:, 3:], np.tile([2, 2, 2, 2, 2, 3, 2, 2, 2], (50, 1)))
    values, marks = np.moveaxis(np.asarray(adding["inputs"]), -1, 0)
    assert (
        (marks[:, :3].sum(1) == 1).all() and (marks[:, 3:6].sum(1) == 1).all() and (marks[:, 6:] == 0).all()
    )
    np.testing.assert_allclose(np.asarray(adding["targets"])[:, -1], (values * marks).sum(1), rtol=1e-6)
    letters, following = np.asarray(text["inputs"]), np.asarray(text["targets"])
    np.testing.assert_array_equal(letters[:, 1:], following[:, :-1])
    assert 0 <= letters.min() and letters.max() < LETTERS
    assert not ((letters == 0) & (following == 0)).any()  # no two spaces


def test_text_that_is_held_out_is_not_trained_on():
    found = [np.asarray(recurrent(problem="text", seed=seed, rows=2000).data["inputs"]) for seed in (0, 1)]
    trained, held_out = ({bytes(row.astype(np.uint8)) for row in rows} for rows in found)
    assert len(trained & held_out) < 0.02 * len(held_out)  # what a text repeats


def test_more_bits_than_fit_are_refused():
    with pytest.raises(ValueError, match=r"^kept must be at most \(length - 1\) / 2 \(4\), got 5$"):
        recurrent(problem="copy", length=10, kept=5)


def test_a_vanilla_network_adds_as_its_equations_say():
    problem = recurrent(problem="adding", core="vanilla", hidden=3, length=8, rows=5)
    theta = problem.init_theta(jax.random.key(1))
    cell, head, h = theta["cell"], theta["head"], np.zeros(3)
    w = next(leaf["recurrent"] for leaf in theta.values() if "recurrent" in leaf)
    for x in np.asarray(problem.data["inputs"])[2]:
        h = np.tanh(x @ cell["w"] + cell["b"] + h @ w)
    answer = h @ head["w"] + head["b"]
    found = losses_of(problem, theta, 2)
    expected = 8 * (answer[0] - np.asarray(problem.data["targets"])[2, -1]) ** 2
    np.testing.assert_allclose(found, [0] * 7 + [expected], rtol=1e-4)


def test_a_constant_answer_has_the_loss_of_chance():
    for kind, chance in (("copy", np.log(2)), ("text", np.log(LETTERS))):
        problem = recurrent(problem=kind, hidden=2, length=12)
        theta = jax.tree.map(jnp.zeros_like, problem.init_theta(jax.random.key(0)))
        np.testing.assert_allclose(losses_of(problem, theta, 0).mean(), chance, rtol=1e-5)


def test_training_on_text_lowers_the_loss_on_other_text():
    options = {"problem": "text", "core": "vanilla", "hidden": 8, "length": 20}
    problem = recurrent(**options)
    rates = np.asarray([0.03], np.float32)
    thetas = training(problem, "TBPTT", 100, 1)(np.asarray([0], np.int32), rates, problem.data)
    flat = jax.tree.map(lambda x: x[0], thetas)
    losses = learning.objective(recurrent(**options, seed=1), flat, jax.random.key(0), episodes=64)
    assert losses.shape == (RECORDS + 1,)
    assert losses[-1] < losses[0] - 0.5


def test_every_pair_of_problem_and_network_is_trained_and_has_its_panels():
    assert {case[:2] for case in CASES.values()} == {
        (problem, core) for problem in ("copy", "adding", "text") for core in ("lstm", "vanilla")
    }
    curve = {"loss": [[1.0] * (RECORDS + 1)] * 2, "rate": 0.1, "seconds": 2.0, "size": 3}
    curves = {name: dict.fromkeys(METHODS, curve) for name in CASES}
    figure = Figure()
    draw({"curves": curves, "windows": {name: case[2] for name, case in CASES.items()}}, figure)
    assert len(figure.axes) == 2 * len(CASES)
    assert summary(curves)["text, LSTM (3), PES"] == "1.000 [1.000, 1.000]; rate 0.1, 2.00 s"
