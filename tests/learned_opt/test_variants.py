"""Architectures without a recorded trajectory of their own, as what they reduce to."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import elo
from learned_opt.architectures import adafac_mlp, celo, celo2, celo_adam, mulo


def params():
    return {
        "in": {"w": jnp.cos(jnp.arange(12.0)).reshape(3, 4), "b": jnp.linspace(-1.0, 1.0, 4)},
        "mid": {"w": jnp.sin(jnp.arange(16.0)).reshape(4, 4)},
    }


def first_update(tx, scale=1.0):
    grads = jax.tree.map(lambda p: scale * (p - 0.3), params())
    return jax.jit(lambda g, p: tx.update(g, tx.init(p), p)[0])(grads, params())


def assert_close(got, expected, rtol=1e-5):
    for (path, x), y in zip(jax.tree_util.tree_leaves_with_path(got), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-8, err_msg=str(path))


@pytest.fixture(scope="module")
def adafac():
    """Hidden 32: theta with decays off their start, and the first update."""
    lopt = adafac_mlp(hidden=32, step_mult=0.01)
    theta = jax.jit(lopt.init)(jax.random.key(0))
    theta["momentum_decays"] = jnp.array([0.15, 0.14, 0.07])
    return theta, first_update(lopt.build(theta, None))


def test_mulo_without_hidden_weights_is_adafac_mlp(adafac):
    theta, expected = adafac
    assert_close(first_update(mulo().build(theta, None)), expected)


def test_mulo_divides_the_step_of_hidden_weights_by_their_fan_in(adafac):
    theta, expected = adafac
    got = first_update(mulo(hidden_weights=r"^mid\.", hidden_lr_mult=2.0).build(theta, None))
    assert_close(got["in"], expected["in"])
    assert_close(got["mid"], jax.tree.map(lambda u: u * 2.0 / 4, expected["mid"]))


def test_mulo_clips_by_the_global_norm(adafac):
    theta, _ = adafac
    norm = optax.tree.norm(jax.tree.map(lambda p: p - 0.3, params()))
    clipped = first_update(mulo(clip_norm=1.0).build(theta, None))
    assert_close(clipped, first_update(mulo().build(theta, None), scale=1 / norm), rtol=1e-4)


def test_elo_is_adafac_mlp_at_its_first_decays_with_decoupled_weight_decay():
    lopt = elo(learning_rate=0.05, weight_decay=0.1)
    theta = jax.jit(lopt.init)(jax.random.key(0))
    reference = adafac_mlp(hidden=32, step_mult=0.05)
    zeros = {f"{k}_decays": jnp.zeros(n) for k, n in (("momentum", 3), ("rms", 1), ("adafactor", 3))}
    expected = first_update(reference.build({**theta, **zeros}, None))
    expected = jax.tree.map(lambda u, p: u - 0.05 * 0.1 * p, expected, params())
    assert_close(first_update(lopt.build(theta, None)), expected)


def test_celo2_can_leave_vectors_to_adamw():
    lopt = celo2(learning_rate=0.01, weight_decay=0.1, vectors="adamw", vector_lr_mult=20.0)
    theta = jax.jit(lopt.init)(jax.random.key(0))
    tx, adamw = lopt.build(theta, None), optax.adamw(0.2, b1=0.9, b2=0.95, weight_decay=0.1)

    def run(tx, p):
        def body(carry, t):
            p, state = carry
            updates, state = tx.update(jax.tree.map(lambda p: jnp.sin(3 * p + t), p), state, p)
            return (optax.apply_updates(p, updates), state), None

        return jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), jnp.arange(4.0))[0][0])(p)

    assert_close(run(tx, params())["in"]["b"], run(adamw, params()["in"]["b"]))


def trajectory(tx, params, gradient, losses, num_steps=None):
    """Parameters after each update, of an optax transformation under jit."""

    def body(carry, inputs):
        params, state = carry
        t, loss = inputs
        updates, state = tx.update(gradient(jnp, params, t), state, params, value=loss)
        params = optax.apply_updates(params, updates)
        return (params, state), params

    times = jnp.arange(float(len(losses)))
    return jax.jit(lambda p: jax.lax.scan(body, (p, tx.init(p)), (times, jnp.asarray(losses)))[1])(params)


def slope(xp, params, t):
    return {k: xp.sin(3 * p + t) for k, p in params.items()}


@pytest.mark.parametrize("betas", [(0.9, 0.95), (0.8, 0.99)])
def test_celo2s_own_adam_steps_the_paths_it_is_given(betas):
    """In float64: m / sqrt(v + eps) without bias correction, at 20 times the rate, decay included."""
    lopt = celo2(
        learning_rate=0.01, weight_decay=0.1, vector_lr_mult=20.0, adam_paths=r"/b$|embed", adam_betas=betas
    )
    theta, start = (
        jax.jit(lopt.init)(jax.random.key(0)),
        {"embed": params()["in"]["w"], "net/b": params()["in"]["b"]},
    )
    start["net/w"] = params()["mid"]["w"]
    got = trajectory(lopt.build(theta, None), start, slope, [0.0] * 4)
    p = {k: np.asarray(x, np.float64) for k, x in start.items() if k != "net/w"}
    m, v = ({k: np.zeros_like(x) for k, x in p.items()} for _ in range(2))
    for t in range(4):
        for k, g in slope(np, p, t).items():
            m[k] = betas[0] * m[k] + (1 - betas[0]) * g
            v[k] = betas[1] * v[k] + (1 - betas[1]) * g * g
            p[k] = p[k] - 0.2 * (m[k] / np.sqrt(v[k] + 1e-8) + 0.1 * p[k])
            np.testing.assert_allclose(got[k][t], p[k], rtol=0, atol=2e-5)
    alone = celo2(learning_rate=0.01, weight_decay=0.1).build(theta, None)
    assert_close(got["net/w"], trajectory(alone, {"w": start["net/w"]}, slope, [0.0] * 4)["w"])


def test_the_accumulators_of_celo2s_own_adam_are_two_numbers_a_parameter():
    tx = celo2(adam_paths="^embed$").build(jax.eval_shape(celo2().init, jax.random.key(0)), None)
    state = jax.eval_shape(tx.init, {"embed": jnp.zeros((64, 8)), "w": jnp.zeros((64, 8))})
    sizes = {k: sum(x.size for x in jax.tree.leaves(acc)) / 512 for k, acc in state.acc.items()}
    assert sizes["embed"] == 2 and sizes["w"] > 4


def test_the_adam_of_vectors_has_the_betas_and_the_epsilon_that_it_is_given():
    options = {"vectors": "adamw", "adam_betas": (0.8, 0.99), "adam_eps": 1e-3, "vector_lr_mult": 2.0}
    lopt, start = celo2(learning_rate=0.01, **options), {"b": params()["in"]["b"]}
    got = trajectory(lopt.build(jax.jit(lopt.init)(jax.random.key(0)), None), start, slope, [0.0] * 4)
    adam = optax.with_extra_args_support(optax.adam(0.02, b1=0.8, b2=0.99, eps=1e-3))
    assert_close(got, trajectory(adam, start, slope, [0.0] * 4))


def celo_adam_in_numpy(theta, params, losses, num_steps):
    """Celo-Adam written out in float64 from its definition; parameters after each update."""
    layer = {k: (np.float64(x["w"]), np.float64(x["b"])) for k, x in theta["rnn_params"].items()}
    dense = lambda name, x: x @ layer[name][0] + layer[name][1]  # noqa: E731
    sigmoid = lambda x: 1 / (1 + np.exp(-x))  # noqa: E731
    p = {k: np.float64(x) for k, x in params.items()}
    m, v = ({k: np.zeros_like(x) for k, x in p.items()} for _ in range(2))
    h, c = (np.repeat(np.float64(x), len(p), 0) for x in theta["lstm_init_state"])
    decays = np.exp(-1 / np.logspace(1, np.log10(num_steps), 10))
    mean, least, out = np.zeros(10), np.full(10, 999999999999.0), []
    for t, loss in enumerate(losses):
        largest = loss if t == 0 else np.max(mean / (1 - decays ** (t + 1)))
        mean = decays * mean + (1 - decays) * min(2 * abs(largest), loss)
        corrected = mean / (1 - decays ** (t + 1))
        least = np.minimum(least, corrected)
        features = (corrected[:-1] - least[:-1]) / np.maximum(1e-8, corrected[1:] - least[:-1]) - 1
        features = np.clip(features, -1, 1) * (t >= 2)
        fractions = np.array([0.03, 0.1, 0.2, 0.4, 0.6, 0.8, 0.9, 1.0, 1.1])
        x = np.tile(np.concatenate([np.tanh(10 * (t / num_steps - fractions)), features]), (len(p), 1))
        x = dense("linear_2", x) + np.maximum(dense("linear_1", x), 0).max(0)
        i, g, f, o = np.split(dense("rnn/linear", np.concatenate([x, h], 1)), 4, 1)
        c = sigmoid(f + 1) * c + sigmoid(i) * np.tanh(g)
        h = sigmoid(o) * np.tanh(c)
        rates = 0.1 * np.exp(dense("step_size", h)[:, 0])
        gradients = slope(np, p, t)
        for rate, k in zip(rates, sorted(p), strict=True):
            g = np.clip(gradients[k], -1000, 1000)
            m[k], v[k] = 0.9 * m[k] + 0.1 * g, 0.999 * v[k] + 0.001 * g * g
            m_hat, v_hat = m[k] / (1 - 0.9 ** (t + 1)), v[k] / (1 - 0.999 ** (t + 1))
            p[k] = p[k] - rate * m_hat / (1e-8 + np.sqrt(v_hat + 1e-10))
        out.append(dict(p))
    return out


def test_celo_adam_follows_its_definition_in_float64():
    lopt, start = (
        celo_adam(lstm_hidden=8, step_mult=1.0),
        {"b": params()["in"]["b"], "w": params()["mid"]["w"]},
    )
    leaves, tree = jax.tree.flatten(jax.jit(lopt.init)(jax.random.key(0)))
    theta = tree.unflatten(
        [x + 0.3 * jnp.sin(1.7 * jnp.arange(x.size) + i).reshape(x.shape) for i, x in enumerate(leaves)]
    )
    losses = [2.0, 1.5, 1.8, 0.9, 6.0, 0.7]
    expected = celo_adam_in_numpy(theta, start, losses, 20)
    got = trajectory(lopt.build(theta, 20), start, slope, losses)
    for t, after in enumerate(expected):
        for k, x in after.items():
            np.testing.assert_allclose(got[k][t], x, rtol=0, atol=2e-5, err_msg=f"{k} after update {t + 1}")
    rates = [float(np.abs(after["b"] - before["b"]).max()) for before, after in itertools.pairwise(expected)]
    assert max(rates) > 1.1 * min(rates)  # the schedule does move


def test_celo_adam_has_celos_schedule_and_nothing_else():
    shapes = jax.eval_shape(celo_adam().init, jax.random.key(0))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 36_865
    celos = jax.eval_shape(celo().init, jax.random.key(0))
    del celos["ff_mod_stack"], celos["rnn_params"]["rnn_to_controls"]
    assert shapes == celos


def test_celo2s_steps_have_unit_root_mean_square():
    lopt = celo2(learning_rate=0.01)
    updates = first_update(lopt.build(jax.jit(lopt.init)(jax.random.key(0)), None))
    for u in jax.tree.leaves(updates):
        np.testing.assert_allclose(jnp.sqrt(jnp.mean(jnp.square(u))), 0.01, rtol=1e-4)
