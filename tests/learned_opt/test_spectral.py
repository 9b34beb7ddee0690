"""The spectral optimizer: Muon with AdamW where nothing is learned, and steps that transfer over width."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import spectral
from learned_opt.architectures.learned_rate import warmup_cosine
from learned_opt.architectures.orthogonal import (
    as_matrix,
    equalised,
    kinds,
    mean_square_of_outputs,
    orthogonalised,
    spectral_scale,
)
from learned_opt.architectures.spectral import EMBEDDINGS

T = 40


def params(seed=0):
    draw = lambda i, *shape: jax.random.normal(jax.random.key(seed + i), shape)  # noqa: E731
    return {
        "conv": {"w": draw(0, 3, 3, 2, 5), "b": draw(1, 5)},
        "head": {"w": draw(2, 5, 8), "b": draw(3, 8)},
        "token_embedding": draw(4, 7, 4),
        "scale": draw(5),
    }


def theta(**options):
    return spectral(**options).init(jax.random.key(0))


def trained(tx, p, steps):
    """Parameters after steps whose gradients are fixed functions of them."""
    state = tx.init(p)
    update = jax.jit(tx.update)
    for t in range(steps):
        grads = jax.tree.map(lambda x, t=t: jnp.sin(3 * x + t), p)
        updates, state = update(grads, state, p)
        p = optax.apply_updates(p, updates)
    return p


def reference(learning_rate, vector_rate, decay):
    """Muon as in optax, chained with this project's schedule, and optax's Adam for what is not a matrix."""
    rate = lambda count: learning_rate * warmup_cosine(count, T)  # noqa: E731
    matrices = optax.chain(
        optax.trace(0.95, nesterov=True),
        optax.contrib.scale_by_muon(
            beta=0.0,
            nesterov=False,
            weight_dimension_numbers=lambda u: jax.tree.map(
                lambda _: optax.contrib.MuonDimensionNumbers(), u
            ),
        ),
        optax.stateless(lambda u, p: jax.tree.map(lambda x: spectral_scale(x.shape) * x, u)),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    vectors = optax.chain(
        optax.scale_by_adam(0.95, 0.99),
        optax.scale(vector_rate),
        optax.add_decayed_weights(decay),
        optax.scale_by_learning_rate(rate),
    )
    labels = lambda p: jax.tree.map(lambda x: "m" if x.ndim == 2 else "v", p)  # noqa: E731
    return optax.multi_transform({"m": matrices, "v": vectors}, labels)


def test_with_nothing_learned_it_is_muon_with_adamw_under_warm_up_and_cosine():
    start = {k: v for k, v in params().items() if k != "conv"}
    tx = spectral(learning_rate=0.1, weight_decay=0.1, equalise=False).build(theta(), T)
    got, expected = trained(tx, start, T), trained(reference(0.1, 0.3, 0.1), start, T)
    assert (
        max(float(jnp.abs(a - b).max()) for a, b in zip(*map(jax.tree.leaves, (got, start)), strict=True))
        > 0.5
    )
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=2e-3), got, expected)


def test_the_rate_rises_over_a_twentieth_of_the_training_and_ends_at_zero():
    rates = np.array([warmup_cosine(t, 200) for t in range(200)])
    np.testing.assert_allclose(rates[:10], np.arange(1, 11) / 10, rtol=1e-5)
    assert (np.diff(rates[9:]) < 0).all() and 0 < rates[-1] < 1e-3
    assert warmup_cosine(200, 200) == 0 == warmup_cosine(500, 200)


def test_what_is_learned_cannot_keep_the_schedule_from_ending_at_zero():
    large = jax.tree.map(lambda x: x + 5.0, theta())
    tx = spectral(learning_rate=0.1).build(large, 10)
    p = {"w": jnp.ones((3, 4)), "b": jnp.ones(3)}
    state = tx.init(p)
    for _ in range(12):
        updates, state = tx.update(jax.tree.map(jnp.sin, p), state, p)
    assert all(float(jnp.abs(u).max()) == 0 for u in jax.tree.leaves(updates))


def test_matrices_embeddings_and_vectors_are_told_apart_by_shape_and_path():
    tree = {
        "Embed_0": {"embedding": jnp.zeros((9, 4))},
        "bias": jnp.zeros(4),
        "column": jnp.zeros((4, 1)),
        "kernel": jnp.zeros((3, 3, 2, 4)),
        "scalar": jnp.zeros(()),
        "wte": jnp.zeros((9, 4)),
    }
    assert kinds(tree, EMBEDDINGS) == ["embedding", "vector", "vector", "matrix", "vector", "embedding"]
    assert kinds(tree, "kernel")[3] == "embedding" and kinds(tree, "$^")[0] == "matrix"


def test_equal_shapes_are_orthogonalised_together_as_they_are_alone():
    shapes = [(4, 6), (6, 4), (2, 2, 6), (4, 6), (3, 3)]
    tensors = [jax.random.normal(jax.random.key(i), shape) for i, shape in enumerate(shapes)]
    together = orthogonalised(tensors)
    for x, o in zip(tensors, together, strict=True):
        np.testing.assert_allclose(o, orthogonalised([x])[0], rtol=1e-4, atol=1e-5)
        singular = jnp.linalg.svd(as_matrix(o), compute_uv=False)
        assert (singular > 0.6).all() and (singular < 1.25).all()
        assert float(jnp.sum(o * x)) > 0


def test_equalised_outputs_have_equal_sizes_and_the_norm_is_kept():
    o = orthogonalised([jax.random.normal(jax.random.key(0), (4, 12))])[0]
    found = equalised(o, mean_square_of_outputs(o))
    squares = mean_square_of_outputs(found)
    np.testing.assert_allclose(squares, squares.mean(), rtol=1e-4)
    np.testing.assert_allclose(jnp.linalg.norm(found), jnp.linalg.norm(o), rtol=1e-5)


@pytest.mark.parametrize("outputs", [16, 64])
def test_a_step_changes_the_outputs_by_as_much_at_any_width(outputs):
    """The root mean square of the change that a step makes, for inputs along which it is largest."""
    sizes = []
    for width in (16, 64, 256):
        tx = spectral(learning_rate=0.1, weight_decay=0.0, schedule="constant").build(theta(), None)
        p = {"w": jnp.zeros((width, outputs * width // 16))}
        grads = {"w": jax.random.normal(jax.random.key(width), p["w"].shape)}
        step = tx.update(grads, tx.init(p), p)[0]["w"]
        u, s, _ = jnp.linalg.svd(step, full_matrices=False)
        x = u[:, 0] * width**0.5  # inputs of root mean square 1
        sizes.append(float(jnp.sqrt(jnp.mean(jnp.square(x @ step)))))
    assert max(sizes) < 1.25 * min(sizes)


def test_the_network_turns_a_vectors_step_and_leaves_its_size():
    lopt = spectral(hidden=4, weight_decay=0.0)
    plain = lopt.init(jax.random.key(0))
    turned = jax.tree.map(lambda x: x + 0.5, plain)
    turned = {**plain, "nn": turned["nn"]}
    p = {"b": params()["head"]["b"], "w": params()["head"]["w"]}
    grads = jax.tree.map(jnp.sin, p)
    without, with_network = (
        lopt.build(th, T).update(grads, lopt.build(th, T).init(p), p)[0] for th in (plain, turned)
    )
    np.testing.assert_allclose(jnp.linalg.norm(with_network["b"]), jnp.linalg.norm(without["b"]), rtol=1e-4)
    for k in p:
        assert float(jnp.abs(with_network[k] - without[k]).max()) > 1e-3
    base = spectral(weight_decay=0.0).build(theta(), T)
    expected = base.update(grads, base.init(p), p)[0]
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), without, expected)


def test_the_state_takes_at_most_sixteen_bytes_a_parameter_with_a_network_and_eight_without():
    p = {"w": jnp.zeros((64, 64)), "v": jnp.zeros(256), "embedding": jnp.zeros((64, 32))}
    size = sum(x.size for x in jax.tree.leaves(p))
    for options, most in (({}, 8), ({"hidden": 4}, 16)):
        state = jax.eval_shape(spectral(**options).build(theta(**options), T).init, p)
        assert sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state)) <= most * size


def test_noisy_gradients_can_lower_the_rate():
    th = theta()
    th["signals"]["matrices"] = jnp.zeros(6).at[0].set(1.0)
    lopt, p = spectral(weight_decay=0.0, limit=3.0), {"w": jnp.eye(8)}
    sizes = {}
    for name, grads in {"steady": [1.0] * 30, "noisy": [(-1.0) ** t for t in range(30)]}.items():
        tx = lopt.build(th, 100)
        state = tx.init(p)
        for sign in grads:
            updates, state = tx.update({"w": sign * jnp.cos(jnp.arange(64.0)).reshape(8, 8)}, state, p)
        sizes[name] = float(jnp.linalg.norm(updates["w"]))
    assert sizes["noisy"] < 0.5 * sizes["steady"]


def size_of_last_step(th, gradients, p, num_steps=40):
    """The norm of the step after these gradients of `{"w": p}`."""
    tx = spectral(weight_decay=0.0).build(th, num_steps)
    state = tx.init({"w": p})
    for g in gradients:
        updates, state = tx.update({"w": g}, state, {"w": p})
    return float(jnp.linalg.norm(updates["w"]))


def test_the_integral_of_agreement_lowers_the_rate_of_a_tensor_that_oscillates_for_long():
    th, p = theta(), jnp.eye(8)
    th["signals"]["matrices"] = jnp.zeros(6).at[2].set(4.0)
    g = jnp.cos(jnp.arange(64.0)).reshape(8, 8)
    for steps, ratio in ((10, 0.6), (20, 0.4)):  # exp(4 * steps / 40 * cosine), the cosine being about -1
        turning = [(-1.0) ** t * g for t in range(steps)]
        plain = size_of_last_step(theta(), turning, p)
        assert size_of_last_step(th, turning, p) < ratio * plain
        steady = [g] * steps
        assert size_of_last_step(th, steady, p) > size_of_last_step(theta(), steady, p) / ratio


@pytest.mark.parametrize(
    ("shape", "group"),
    [((8, 8), "matrices"), ((3, 3, 4, 8), "kernels"), ((8,), "vectors"), ((8, 1), "vectors")],
)
def test_matrices_kernels_and_vectors_have_rates_of_their_own(shape, group):
    g = jnp.cos(jnp.arange(np.prod(shape, dtype=float))).reshape(shape)
    for other in ("matrices", "kernels", "vectors"):
        th = theta()
        th["signals"][other] = jnp.zeros(6).at[0].set(0.5)
        differs = size_of_last_step(th, [g, g], g) != size_of_last_step(theta(), [g, g], g)
        assert differs == (other == group)


def test_the_learned_widths_move_the_rate_by_one_power_below_64_and_by_another_above():
    th = theta()
    th["width"] = jnp.array([1.0, -0.5])
    for width, factor in ((32, 0.5), (64, 1.0), (128, 0.5**0.5)):
        g = jax.random.normal(jax.random.key(0), (width, 200))
        found = size_of_last_step(th, [g], g) / size_of_last_step(theta(), [g], g)
        np.testing.assert_allclose(found, factor, rtol=1e-5)


def test_the_learned_momentum_is_the_one_that_is_used():
    th, p = theta(), jnp.eye(8)
    th["momentum"] = jnp.float32(-20.0)  # none
    flips = [jnp.cos(jnp.arange(64.0)).reshape(8, 8), jnp.sin(jnp.arange(64.0)).reshape(8, 8)]
    tx = spectral(weight_decay=0.0, equalise=False).build(th, 40)
    state = tx.init({"w": p})
    for g in flips:
        updates, state = tx.update({"w": g}, state, {"w": p})
    assert float(-jnp.sum(updates["w"] * flips[1]) / jnp.linalg.norm(updates["w"])) > 0
    np.testing.assert_allclose(
        updates["w"] / jnp.linalg.norm(updates["w"]), -orthogonalised([flips[1]])[0] / 8**0.5, atol=0.2
    )
    np.testing.assert_allclose(state.acc["w"].momentum[..., 0], flips[1], atol=1e-5)


def test_the_learned_weight_decay_has_a_level_and_a_power_of_the_number_of_steps():
    th = theta()
    th["weight_decay"] = jnp.array([np.log(3.0), 1.0, 0.0])
    p, zero = {"w": jnp.ones((4, 4))}, {"w": jnp.zeros((4, 4))}
    for num_steps, factor in ((500, 3.0), (1000, 6.0)):
        step = [
            spectral(weight_decay=0.1).build(meta, num_steps).update(zero, tx.init(p), p)[0]["w"]
            for meta in (th, theta())
            for tx in [spectral(weight_decay=0.1).build(meta, num_steps)]
        ]
        np.testing.assert_allclose(step[0], factor * step[1], rtol=1e-5)


def test_the_learned_weight_decay_follows_the_course_of_the_training():
    th = theta()
    th["weight_decay"] = jnp.array([0.0, 0.0, -1.5])
    p, zero, num_steps = {"w": jnp.ones((4, 4))}, {"w": jnp.zeros((4, 4))}, 40
    both = [spectral(weight_decay=0.1).build(meta, num_steps) for meta in (th, theta())]
    states = [tx.init(p) for tx in both]
    for t in range(1, num_steps):
        (step, states[0]), (plain, states[1]) = (
            tx.update(zero, state, p) for tx, state in zip(both, states, strict=True)
        )
        np.testing.assert_allclose(step["w"], np.exp(-1.5 * (2 * t / num_steps - 1)) * plain["w"], rtol=1e-4)
