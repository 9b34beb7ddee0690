"""The rivals written here, against plain loops over the published algorithms."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from optax import contrib

from meta_train.evaluation.baselines import BASELINES, build, settings, theta
from meta_train.evaluation.rivals import cautious_adamw, matched_muon, muon_labels, scale_by_soap


def steps_of(transformation, params, gradients):
    """The updates of a transformation, one after another."""
    state, out = transformation.init(params), []
    update = jax.jit(transformation.update)
    for g in gradients:
        step, state = update(g, state, params)
        out.append(step)
    return out


def soap_by_hand(gradients, beta=0.95, every=3, eps=1e-8):
    """SOAP of one matrix: the loop of Vyas et al. 2024, in float64 NumPy."""
    rows, columns = gradients[0].shape
    left, right = np.zeros((rows, rows)), np.zeros((columns, columns))
    q_left, q_right = np.eye(rows), np.eye(columns)
    momentum, second = np.zeros((rows, columns)), np.zeros((rows, columns))
    out = []
    for t, g in enumerate(np.float64(gradients)):
        if t:
            rotated = q_left.T @ g @ q_right
            momentum = beta * momentum + (1 - beta) * g
            second = beta * second + (1 - beta) * rotated**2
            first = q_left.T @ momentum @ q_right / (1 - beta**t)
            step = first / (np.sqrt(second / (1 - beta**t)) + eps)
            out.append(q_left @ step @ q_right.T)
        else:
            out.append(np.zeros_like(g))
        left = beta * left + (1 - beta) * g @ g.T
        right = beta * right + (1 - beta) * g.T @ g
        if t == 0:
            q_left, q_right = (np.linalg.eigh(m)[1][:, ::-1] for m in (left, right))
        elif t % every == 0:
            by_size = [np.argsort(-np.diag(q.T @ m @ q)) for q, m in ((q_left, left), (q_right, right))]
            second = second[by_size[0]][:, by_size[1]]
            q_left = np.linalg.qr(left @ q_left[:, by_size[0]])[0]
            q_right = np.linalg.qr(right @ q_right[:, by_size[1]])[0]
    return out


def test_soap_is_the_published_loop():
    # 14 gradients, so that four refreshes happen; tall and wide, so that one preconditioner is of full rank.
    rng = np.random.default_rng(0)
    gradients = [rng.normal(size=(5, 5)) * np.arange(1, 6) + rng.normal(size=(5, 5)) for _ in range(14)]
    found = steps_of(scale_by_soap(every=3), jnp.zeros((5, 5)), [jnp.float32(g) for g in gradients])
    for t, (step, expected) in enumerate(zip(found, soap_by_hand(gradients), strict=True)):
        np.testing.assert_allclose(step, expected, atol=3e-3, err_msg=f"step {t}")
    assert not found[0].any() and np.abs(found[1]).max() > 0.5


def test_soap_has_plain_adam_for_vectors_and_for_axes_over_the_limit():
    rng = np.random.default_rng(1)
    for shape in ((4,), (4, 3)):
        gradients = [jnp.float32(rng.normal(size=shape)) for _ in range(5)]
        found = steps_of(scale_by_soap(limit=2), jnp.zeros(shape), gradients)
        adam = steps_of(optax.scale_by_adam(0.95, 0.95), jnp.zeros(shape), gradients)
        np.testing.assert_allclose(np.stack(found), np.stack(adam), rtol=1e-4)


def test_soap_does_not_depend_on_a_rotation_of_the_parameters():
    """Adam does. 12 gradients of a fixed key; the difference is rounding."""
    rng = np.random.default_rng(2)
    rotation = np.linalg.qr(rng.normal(size=(4, 4)))[0]
    gradients = [rng.normal(size=(4, 4)) @ np.diag([4, 2, 1, 0.5]) for _ in range(12)]
    plain = steps_of(scale_by_soap(), jnp.zeros((4, 4)), [jnp.float32(g) for g in gradients])
    turned = steps_of(scale_by_soap(), jnp.zeros((4, 4)), [jnp.float32(rotation @ g) for g in gradients])
    for a, b in zip(plain, turned, strict=True):
        np.testing.assert_allclose(rotation @ np.asarray(a), b, atol=2e-2)


MLP = {"linear_9": {"w": (6, 4), "b": (4,)}, "linear_10": {"w": (4, 3), "b": (3,)}}
LM = {
    "~": {"embedding": (9, 4), "position": (5, 4)},
    "attention_qkv": {"w": (4, 12)},
    "conv": {"w": (3, 3, 2, 4)},
    "head": {"w": (4, 9), "b": (9,)},
    "layer_norm": {"scale": (4,)},
}


@pytest.mark.parametrize(
    ("shapes", "muon"),
    [
        (MLP, {"['linear_9']['w']"}),
        (LM, {"['attention_qkv']['w']", "['conv']['w']"}),
        ({"w": (4, 3)}, {"['w']"}),
        (
            {"multi_head_attention": {"output": (4, 4)}, "lm_head": {"w": (4, 9)}, "pos": (5, 4)},
            {"['multi_head_attention']['output']"},
        ),
    ],
)
def test_muon_leaves_embeddings_positions_and_output_layers_to_adam(shapes, muon):
    params = jax.tree.map(jnp.zeros, shapes, is_leaf=lambda x: isinstance(x, tuple))
    labels = jax.tree_util.tree_leaves_with_path(muon_labels(params))
    assert {jax.tree_util.keystr(path) for path, label in labels if label == "muon"} == muon


def test_muon_is_optaxs_with_matched_rms_where_every_leaf_is_a_hidden_matrix():
    rng = np.random.default_rng(3)
    params = {"a": jnp.float32(rng.normal(size=(6, 4)))}
    gradients = [{"a": jnp.float32(rng.normal(size=(6, 4)))} for _ in range(4)]
    ours = matched_muon(lambda count: 0.1, {"weight_decay": 0.3, "adam_rate": 1.0})
    theirs = contrib.muon(0.1, weight_decay=0.3, consistent_rms=0.2)
    for a, b in zip(steps_of(ours, params, gradients), steps_of(theirs, params, gradients), strict=True):
        np.testing.assert_allclose(a["a"], b["a"], rtol=1e-4, atol=1e-6)


def test_muons_update_has_the_rms_of_an_adam_update_whatever_the_shape():
    """Five Newton-Schulz steps leave singular values of .7 to 1.2; the rest is exact."""
    rng = np.random.default_rng(4)
    muon = matched_muon(lambda count: 1.0, {"weight_decay": 0.0, "adam_rate": 1.0})
    params = {"a": jnp.zeros((64, 8)), "conv": jnp.zeros((3, 3, 4, 36)), "out": jnp.zeros((5, 2))}
    gradients = jax.tree.map(lambda p: jnp.float32(rng.normal(size=p.shape)), params)
    (step,) = steps_of(muon, params, [gradients])
    for name, low, high in (("a", 0.7, 1.2), ("conv", 0.6, 1.2)):
        rms = float(jnp.sqrt(jnp.mean(step[name] ** 2)))
        assert low * 0.2 < rms < high * 0.2, name
    np.testing.assert_allclose(np.abs(step["out"]), 1.0, rtol=1e-3)  # Adam's first step


def test_adams_rate_is_its_own():
    muon = matched_muon(lambda count: 0.5, {"weight_decay": 0.0, "adam_rate": 0.1})
    (step,) = steps_of(muon, {"b": jnp.zeros(3)}, [{"b": jnp.ones(3)}])
    np.testing.assert_allclose(step["b"], -0.05, rtol=1e-3)


def test_a_cautious_step_has_no_element_against_the_gradient_and_keeps_the_sum():
    params = jnp.array([1.0, 1.0, 1.0, 1.0])
    first, second = jnp.array([1.0, 1.0, -1.0, 1.0]), jnp.array([-0.1, 1.0, -1.0, 1.0])
    plain = steps_of(optax.adamw(0.1, weight_decay=0.0), params, [first, second])
    found = steps_of(cautious_adamw(lambda count: 0.1, 0.0), params, [first, second])
    np.testing.assert_allclose(found[0], plain[0])
    np.testing.assert_allclose(found[1], plain[1] * np.array([0, 4 / 3, 4 / 3, 4 / 3]), rtol=1e-6)


def test_weight_decay_is_decoupled_and_not_masked():
    (step,) = steps_of(cautious_adamw(lambda count: 0.1, 0.5), jnp.ones(2), [jnp.zeros(2)])
    np.testing.assert_allclose(step, -0.05, rtol=1e-6)


def test_settings_are_all_combinations_with_the_defaults_first():
    found, rows = settings(BASELINES["muon"], (0.1, 0.2), "cosine", hyper=True)
    assert len(rows) == 12 and rows[0] == rows[1] == {"weight_decay": 0.01, "adam_rate": 1.0}
    assert found["learning_rate"].tolist()[:4] == pytest.approx([0.1, 0.2, 0.1, 0.2])
    assert found["weight_decay"].shape == (12,)
    alone, rows = settings(BASELINES["muon"], (0.1, 0.2), "cosine", hyper=False)
    assert len(rows) == 2 and alone["adam_rate"].tolist() == [1.0, 1.0]


def test_theta_without_hyperparameters_has_the_defaults():
    with_default = build(BASELINES["adamw"])(theta(0.1, "constant") | {"weight_decay": 0.01}, 10)
    without = build(BASELINES["adamw"])(theta(0.1, "constant"), 10)
    params = jnp.ones(3)
    a, b = (steps_of(opt, params, [jnp.ones(3)])[0] for opt in (with_default, without))
    np.testing.assert_array_equal(a, b)


def test_ademamix_warms_up_its_slow_average_over_the_training():
    """At the first step beta_3 is beta_1 and alpha 0: it is Adam. At the last one they are .999 and 5."""
    params, gradients = jnp.zeros(2), [jnp.array([1.0, -2.0])]
    mix = build(BASELINES["ademamix"])(theta(0.1, "constant") | {"weight_decay": np.float32(0)}, 10)
    adam = optax.adam(0.1)
    np.testing.assert_allclose(
        steps_of(mix, params, gradients)[0], steps_of(adam, params, gradients)[0], rtol=1e-5
    )
    late = steps_of(mix, params, 40 * gradients)[-1]
    assert (np.abs(late) > 1.2 * 0.1).all()


def test_soap_decomposes_one_matrix_at_a_time_where_many_trainings_run_side_by_side():
    """Batches of decompositions never end on some CPUs."""
    tx = scale_by_soap()

    def first(g):
        return tx.update({"w": g}, tx.init({"w": g}))

    program = jax.jit(jax.vmap(first)).lower(jnp.ones((7, 4, 3))).as_text()
    batches = re.findall(r'lapack_\w+.*num_batch_dims = "(\d+)"', program)
    assert len(batches) >= 4 and set(batches) == {"0"}
    side_by_side, _ = jax.vmap(first)(jax.random.normal(jax.random.key(0), (2, 4, 3)))
    assert side_by_side["w"].shape == (2, 4, 3)
