"""Systems that learn from data: an LSTM online, and the hyperparameters of an MLP's training."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.core.estimator import GRADIENT_FREE
from meta_train.core.system import ENDLESS, UnrolledSystem
from meta_train.estimators import ESTIMATORS
from reproductions.systems.character_lstm import character_lstm
from reproductions.systems.classifier import classifier
from reproductions.systems.layer_hyperparameters import layer_hyperparameters
from reproductions.systems.mlp_schedule import mlp_schedule


@pytest.mark.parametrize("name", ESTIMATORS)
def test_only_estimators_that_evaluate_losses_take_a_system_without_gradients(name):
    def step(theta, state, key, data):
        return state, jnp.sign(theta)

    system = UnrolledSystem(lambda theta, key: (jnp.zeros([]), jnp.int32(20)), step, 20, 20)
    ESTIMATORS[name](system)
    system = system._replace(no_gradient="objective sign")
    if name in GRADIENT_FREE:
        ESTIMATORS[name](system)
        return
    line = f"{name} needs gradients, objective sign has none; allowed: full_es, gpes, nres, pes, truncated_es"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        ESTIMATORS[name](system)


def losses_of(problem, theta, num_steps):
    """The final state and the losses of one inner problem."""

    def run(theta, data):
        key_init, key_steps = jax.random.split(jax.random.key(0))
        state, _ = problem.system.init(theta, key_init)
        keys = jax.random.split(key_steps, num_steps)
        return jax.lax.scan(lambda s, key: problem.system.step(theta, s, key, data), state, keys)

    return jax.jit(run)(theta, problem.data)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def test_the_lstm_reads_character_by_character():
    problem = character_lstm(
        text="markov:1[:6]", hidden=3, embedding=2, unroll_length=None, random_start=False
    )
    theta = problem.init_theta(jax.random.key(0))
    state, losses = losses_of(problem, theta, 8)
    table, head, gates = theta["embed"]["embeddings"], theta["linear"], theta["lstm/linear"]
    tokens, hidden, cell = np.asarray(problem.data["tokens"]), np.zeros(3), np.zeros(3)
    for t in range(8):  # the text in a circle of five predictions
        pre = np.concatenate([table[tokens[t % 5]], hidden]) @ gates["w"] + gates["b"]
        enter, candidate, forget, leave = np.split(pre, 4)
        cell = sigmoid(forget + 1) * cell + sigmoid(enter) * np.tanh(candidate)
        hidden = sigmoid(leave) * np.tanh(cell)
        logits = hidden @ head["w"] + head["b"]
        wanted = np.log(np.exp(logits).sum()) - logits[tokens[t % 5 + 1]]
        np.testing.assert_allclose(losses[t], wanted, rtol=1e-5)
    np.testing.assert_allclose(state.hidden, hidden, rtol=1e-4)
    assert problem.system.init(theta, jax.random.key(0))[1] == ENDLESS and problem.system.length_multiple == 0


def test_the_scenarios_have_the_texts_characters():
    data = {
        scenario: np.asarray(character_lstm(text="markov:1[:5000]", scenario=scenario).data["tokens"])
        for scenario in ("real", "random", "repeat")
    }
    occurring, counts = np.unique(data["real"], return_counts=True)
    assert (np.unique(data["random"]) == occurring).all()
    assert (data["repeat"] == occurring[counts.argmax()]).all()
    assert all(len(tokens) == 5000 for tokens in data.values())
    # Uniform draws: the count of each of 16 characters is within 6 standard deviations (false alarm 3e-8).
    each = 5000 / len(occurring)
    assert (np.abs(np.unique(data["random"], return_counts=True)[1] - each) < 6 * np.sqrt(each)).all()


def test_inner_problems_begin_at_places_of_their_own():
    problem = character_lstm(text="markov:1[:5000]", hidden=2, embedding=2)
    theta = problem.init_theta(jax.random.key(0))
    starts = jax.vmap(lambda key: problem.system.init(theta, key)[0].position)(
        jax.random.split(jax.random.key(0), 100)
    )
    assert starts.min() >= 0 and starts.max() < 4999 and len(np.unique(starts)) > 90


SMALL = {"hidden": (4, 3), "batch_size": 4, "unroll_length": 6}


def test_the_schedule_is_sgd_with_momentum_and_inverse_time_decay():
    problem, model = mlp_schedule(**SMALL), classifier("digits", (4, 3), 4, "train")
    state, losses = losses_of(problem, jnp.log(jnp.asarray([0.3, 2.0])), 6)
    optimizer = optax.sgd(lambda t: 0.3 / (1 + t / 6) ** 2, momentum=0.9)
    key_init, key_steps = jax.random.split(jax.random.key(0))
    params = model.init(key_init)
    opt_state, grad = optimizer.init(params), jax.jit(jax.value_and_grad(model.loss))
    for t, key in enumerate(jax.random.split(key_steps, 6)):
        loss, grads = grad(params, None, jax.random.split(key)[0], model.data)
        updates, opt_state = optimizer.update(grads, opt_state)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(losses[t], loss, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), state.params, params)


def test_one_rate_for_all_tensors_is_the_schedule_without_decay():
    schedule, layers = mlp_schedule(**SMALL, objective="valid"), layer_hyperparameters(**SMALL, units=False)
    wanted = losses_of(schedule, jnp.asarray([np.log(0.2), -30.0], jnp.float32), 6)[1]
    theta = {"log_rate": jnp.full(6, np.log(0.2)), "logit_momentum": jnp.full(6, np.log(9.0))}
    np.testing.assert_allclose(losses_of(layers, theta, 6)[1], wanted, rtol=1e-5)
    # Every tensor has a rate of its own: one that is nearly 0 leaves its tensor where it began.
    frozen = theta | {"log_rate": theta["log_rate"].at[2].set(-30.0)}
    begin = layers.system.init(theta, jax.random.split(jax.random.key(0))[0])[0].params
    moved = jax.tree.map(
        lambda a, b: not np.allclose(a, b, atol=1e-6), begin, losses_of(layers, frozen, 6)[0].params
    )
    assert [i for i, any_moved in enumerate(jax.tree.leaves(moved)) if not any_moved] == [2]


def test_units_that_are_not_in_use_do_not_learn():
    problem = layer_hyperparameters(**SMALL, objective="train", initial_scale=2.0)
    theta = problem.init_theta(jax.random.key(0)) | {"logit_keep": jnp.asarray([0.6, -9.0])}  # 2 of 4, 1 of 3
    theta["log_rate"] = jnp.full(6, -1.0)
    begin = problem.system.init(theta, jax.random.split(jax.random.key(0))[0])[0].params
    end = losses_of(problem, theta, 6)[0].params
    same = jax.tree.map(lambda a, b: np.isclose(a, b, atol=1e-6), begin, end)
    assert same["linear_0"]["w"][:, 2:].all() and not same["linear_0"]["w"][:, :2].all()
    assert same["linear_1"]["w"][2:].all() and same["linear_1"]["w"][:, 1:].all()
    assert same["linear_2"]["w"][1:].all()


def test_the_accuracy_is_counted_and_has_no_gradient():
    problem = mlp_schedule(**SMALL, objective="accuracy")
    losses = losses_of(problem, problem.init_theta(jax.random.key(0)), 6)[1]
    np.testing.assert_array_equal(losses * 4, np.round(losses * 4))
    assert losses.min() >= 0 and losses.max() <= 1 == problem.system.worst_loss
    with pytest.raises(
        ValueError, match="^tbptt needs gradients, objective accuracy has none; allowed: full_es"
    ):
        ESTIMATORS["tbptt"](problem.system, truncation_length=3)


def test_the_number_of_units_has_no_gradient():
    with pytest.raises(
        ValueError, match="^bptt needs gradients, the number of hidden units has none; allowed"
    ):
        ESTIMATORS["bptt"](layer_hyperparameters(**SMALL).system)
    ESTIMATORS["bptt"](layer_hyperparameters(**SMALL, units=False).system)


def test_bad_options_are_refused_in_a_line(tmp_path):
    np.savez(tmp_path / "line.npz", x=np.ones((9, 2), np.float32), y=np.linspace(0, 1, 9, dtype=np.float32))
    with pytest.raises(
        ValueError, match=r"^rates must be \(low, high\) with low <= high, got \(0.1, 0.01\)$"
    ):
        layer_hyperparameters(rates=(0.1, 0.01))
    with pytest.raises(ValueError, match="^dataset 'npz:.*' is a regression, classes are needed$"):
        mlp_schedule(dataset=f"npz:{tmp_path / 'line.npz'}")
    with pytest.raises(ValueError, match="unknown text"):
        character_lstm(text="nothing")
