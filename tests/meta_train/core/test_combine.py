"""Estimators over several families and over several devices."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import LEARNED_OPTIMIZERS
from meta_train.core.combine import average
from meta_train.core.devices import particle_mesh, shard, shard_average
from meta_train.core.outer import make_outer_step
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS, Estimate, pes, summarise, tbptt
from meta_train.inner import inner_training
from tasks import make


def slope(vector, scale=1.0):
    """A system without memory whose gradient is `scale * vector` at every step."""
    vector = jnp.asarray(vector, jnp.float32)
    return UnrolledSystem(
        lambda theta, key: (jnp.zeros(len(vector)), jnp.int32(2)),
        lambda theta, s, key, data: (s, scale * data * jnp.vdot(vector, theta)),
        2,
        2,
    )


def exact(vector, scale=1.0, particles=2):
    """Its exact gradient, from an estimator."""
    return tbptt(slope(vector, scale), num_particles=particles, truncation_length=1, stagger=False)


THETA = jnp.zeros(2)


def estimate(estimator, data, steps=1):
    """The last of some estimates at theta = 0."""
    state, window = estimator.init(THETA, jax.random.key(0)), jax.jit(estimator.estimate)
    for i in range(steps):
        found, state = window(THETA, state, jax.random.key(i), data)
    return found, state


def test_the_average_weighs_families_of_different_sizes():
    both = average({"a": exact([1, 0]), "b": exact([0, 1], particles=4)}, weights={"a": 3.0, "b": 1.0})
    found, _ = estimate(both, {"a": jnp.float32(1), "b": jnp.float32(2)})
    np.testing.assert_allclose(found.grad, [0.75, 0.5])
    assert both.num_particles == 6 and both.inner_steps == 6
    metrics = summarise(found).metrics
    assert {"loss", "grad_norm", "a/snr", "b/snr", "a/loss"} <= set(metrics)
    np.testing.assert_allclose([metrics["a/grad_norm"], metrics["b/grad_norm"]], [1, 2])
    assert found.particles["b/delta"].shape == (4,)


def test_equal_weights_are_the_default():
    found, _ = estimate(
        average({"a": exact([1, 0]), "b": exact([0, 1])}), {"a": jnp.float32(1), "b": jnp.float32(1)}
    )
    np.testing.assert_allclose(found.grad, [0.5, 0.5])


@pytest.mark.parametrize("factor", [1e-4, 1.0, 1e4])
def test_ema_scaling_makes_families_weigh_alike_whatever_their_losses(factor):
    both = average({"a": exact([1, 0]), "b": exact([0, 1], factor)}, scaling="ema")
    for steps in (1, 5):
        found, state = estimate(both, {"a": jnp.float32(1), "b": jnp.float32(1)}, steps)
        np.testing.assert_allclose(found.grad, [0.5, 0.5], rtol=1e-5)
    np.testing.assert_allclose(state.running / (1 - 0.99**5), [1, factor**2], rtol=1e-4)


def test_loss_scaling_weighs_relative_improvements_alike():
    # At theta = (1, 1) the losses are 1 and 100, their gradients (1, 0) and (0, 100).
    both = average({"a": exact([1, 0]), "b": exact([0, 1], 100.0)}, scaling="loss")
    state = both.init(THETA + 1, jax.random.key(0))
    for i in range(3):
        found, state = both.estimate(
            THETA + 1, state, jax.random.key(i), {"a": jnp.float32(1), "b": jnp.float32(1)}
        )
        np.testing.assert_allclose(found.grad, [0.5, 0.5], rtol=1e-5)


def test_without_scaling_the_family_with_large_losses_dominates():
    found, _ = estimate(
        average({"a": exact([1, 0]), "b": exact([0, 1], 100.0)}), {"a": jnp.float32(1), "b": jnp.float32(1)}
    )
    np.testing.assert_allclose(found.grad, [0.5, 50])


def test_a_family_without_any_gradient_leaves_the_others_finite():
    both = average({"a": exact([1, 0]), "b": exact([0, 1])}, scaling="ema")
    found, _ = estimate(both, {"a": jnp.float32(1), "b": jnp.float32(0)})
    np.testing.assert_allclose(found.grad, [0.5, 0], rtol=1e-5)


@pytest.mark.parametrize(
    "options, said",
    [
        ({"weights": {"a": 0.0, "b": 1.0}}, "weights must be > 0, got 0.0 for a"),
        ({"weights": {"a": 1.0}}, "weights must name the families a, b, got a"),
        ({"weights": {"a": 1.0, "b": 1.0, "c": 1.0}}, "weights must name the families a, b, got a, b, c"),
        ({"decay": 1.0}, r"decay must be in \[0, 1\), got 1.0"),
        ({"scaling": "max"}, "scaling must be none, ema or loss, got max"),
    ],
)
def test_options_out_of_range_are_refused_by_name(options, said):
    with pytest.raises(ValueError, match=f"^{said}$"):
        average({"a": exact([1, 0]), "b": exact([0, 1])}, **options)


def test_an_average_of_no_family_is_refused():
    with pytest.raises(ValueError, match="^estimators must hold at least one family, got none$"):
        average({})


def test_a_sharded_average_is_the_average_of_one_device():
    data = {"a": jnp.float32(1), "b": jnp.float32(2)}
    results = []
    for wrap in (lambda e: e, lambda e: shard(e, particle_mesh(4))):
        noisy = pes(slope([1, 2]), num_particles=4, truncation_length=1, sigma=0.1)
        both = average({"a": wrap(noisy), "b": wrap(exact([0, 1], particles=8))}, scaling="ema")
        results.append(estimate(both, data, steps=3)[0])
    one, four = results
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one.grad, four.grad)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one.particles, four.particles
    )


def inner_estimator(name="pes", window=4):
    """Eight particles that train a small network; T = 8."""
    lopt = LEARNED_OPTIMIZERS["per_param_mlp"](hidden=4)
    family = make({"name": "teacher_mlp", "features": 6, "classes": 3, "hidden": (5,), "batch_size": 7})
    system = inner_training(family, lopt, unroll_length=8, multiple=window)
    return lopt, ESTIMATORS[name](system, num_particles=8, truncation_length=window), family.data


@pytest.fixture(scope="module")
def thetas(usual_code):
    """theta after a few outer steps; the code is the usual one, since its rounding is what is tested."""

    def run(devices, steps=3, **options):
        lopt, estimator, data = inner_estimator()
        sharded = shard(estimator, particle_mesh(devices), **options)
        loop = make_outer_step(lopt.init, sharded, optax.adam(0.01))
        state, step = loop.init(jax.random.key(0)), jax.jit(loop.step, compiler_options=usual_code)
        for _ in range(steps):
            state, _ = step(state, data)
        return jax.device_get(state.theta)

    return run


@pytest.fixture(scope="module")
def whole(thetas):
    return thetas(1)


@pytest.mark.parametrize("devices, chunk", [pytest.param(4, 1, marks=pytest.mark.slow), (2, 4)])
def test_chunks_change_nothing_but_the_memory(thetas, whole, devices, chunk):
    found = thetas(devices, chunk=chunk)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), found, whole)


def test_deterministic_gradients_are_equal_bit_by_bit_on_any_number_of_devices(thetas, whole):
    one, four = (thetas(n, chunk=2, deterministic=True) for n in (1, 4))
    jax.tree.map(np.testing.assert_array_equal, one, four)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, whole)


def test_one_window_reduces_theta_and_the_loss_over_the_devices_and_nothing_else():
    lopt, estimator, data = inner_estimator()
    sharded = shard(estimator, particle_mesh(4))
    theta = lopt.init(jax.random.key(0))
    state = jax.jit(sharded.init)(theta, jax.random.key(0))
    program = jax.jit(sharded.estimate).lower(theta, state, jax.random.key(1), data).compile().as_text()
    assert moved(program) == [[sum(x.size for x in jax.tree.leaves(theta)) + 1]]


def moved(program):
    """The sizes of the arrays that each collective operation of a compiled program moves."""
    found = re.findall(r"= (.*?) (?:all-reduce|all-gather|all-to-all|collective-permute)\(", program)
    return [
        [math.prod(int(n) for n in dims.split(",") if n) for dims in re.findall(r"f32\[([\d,]*)\]", shape)]
        for shape in found
    ]


FAMILIES = {
    "a": pes(slope([1, 2]), num_particles=4, truncation_length=1, sigma=0.1),
    "b": exact([0, 1], particles=8),
    "c": pes(slope([3, 1], 10.0), num_particles=8, truncation_length=1, sigma=0.1),
}
OF_FAMILIES = {"a": jnp.float32(1), "b": jnp.float32(2), "c": jnp.float32(3)}


def test_every_device_has_as_many_particles_of_every_family_as_the_others():
    chunks: dict[str, int | None] = dict.fromkeys(FAMILIES)
    together = shard_average(FAMILIES, particle_mesh(4), chunks=chunks)
    _, state = estimate(together, OF_FAMILIES)
    for label, family in FAMILIES.items():
        own = {shard.device: len(shard.data) for shard in state.states[label].index.addressable_shards}
        assert len(own) == 4 and set(own.values()) == {family.num_particles // 4}, label


IN_CHUNKS = {"chunk": 1}
IN_ORDER = {"chunk": 1, "deterministic": True}
# Each scaling and each way of summing once; the other combinations are slow tests.
QUICK = [("none", {}), ("ema", IN_CHUNKS), ("loss", IN_ORDER)]
OTHERS = [(scaling, way) for scaling in ("none", "ema", "loss") for way in ({}, IN_CHUNKS, IN_ORDER)]
OTHERS = [pytest.param(*one, marks=pytest.mark.slow) for one in OTHERS if one not in QUICK]


@pytest.mark.parametrize("scaling, options", QUICK + OTHERS, ids=str)
def test_families_on_several_devices_have_their_average_by_one_collective_operation(scaling, options):
    chunk, deterministic = options.get("chunk"), options.get("deterministic", False)
    weights = {"a": 1.0, "b": 2.0, "c": 3.0}
    apart = {label: shard(one, particle_mesh(1), **options) for label, one in FAMILIES.items()}
    whole = average(apart, weights=weights, scaling=scaling)
    chunks = dict.fromkeys(FAMILIES, chunk)
    split = shard_average(
        FAMILIES,
        particle_mesh(4),
        chunks=chunks,
        deterministic=deterministic,
        weights=weights,
        scaling=scaling,
    )
    one, four = (estimate(both, OF_FAMILIES, steps=3)[0] for both in (whole, split))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), one, four)
    if deterministic:
        np.testing.assert_array_equal(one.grad, four.grad)
    state = jax.jit(split.init)(THETA, jax.random.key(0))
    lowered = jax.jit(split.estimate).lower(THETA, state, jax.random.key(0), OF_FAMILIES)
    (floats,) = moved(lowered.compile().as_text())
    # theta, the loss and the squared norms of three families; of all chunks where they are gathered.
    assert sum(floats) == (20 if deterministic else 3) * (THETA.size + 2)


def test_chunks_keep_the_temporaries_small():
    lopt, estimator, data = inner_estimator("tbptt", window=8)
    theta, used = lopt.init(jax.random.key(0)), []
    for chunk in (None, 1):
        one = shard(estimator, particle_mesh(1), chunk=chunk)
        state = jax.jit(one.init)(theta, jax.random.key(0))
        compiled = jax.jit(one.estimate).lower(theta, state, jax.random.key(1), data).compile()
        used.append(compiled.memory_analysis().temp_size_in_bytes)
    assert used[1] < used[0] / 2


@pytest.mark.parametrize(
    "options, line",
    [
        ({"chunk": 3}, r"particle_chunk must divide the particles of one device \(4\), got 3"),
        (
            {"deterministic": True},
            "particle_chunk must be given where mesh.deterministic is true: .* got none",
        ),
    ],
)
def test_chunks_that_do_not_fit_are_refused(options, line):
    with pytest.raises(ValueError, match=f"^{line}$"):
        shard(exact([1, 0], particles=8), particle_mesh(2), **options)


def test_particles_that_the_devices_cannot_share_are_refused():
    with pytest.raises(ValueError, match=r"^num_particles must be a multiple of .* \(4\), got 6$"):
        shard(exact([1, 0], particles=6), particle_mesh(4))


@pytest.mark.parametrize("devices", [0, 5])
def test_a_mesh_of_devices_that_are_not_there_is_refused(devices):
    with pytest.raises(ValueError, match=f"^mesh.particles must be between 1 and 4, .* got {devices}$"):
        particle_mesh(devices)


def test_the_summary_is_computed_from_the_gradients_of_the_single_particles():
    n, p = 12, 5
    grads = np.random.default_rng(0).normal(size=(n, p)) + 0.7
    mean = grads.mean(0)
    numbers = dict.fromkeys(("diverged", "restarted", "theta_drift"), jnp.zeros(n))
    numbers |= {"delta": jnp.arange(n) - 5.0, "grad_sq": jnp.asarray((grads**2).sum(1))}
    metrics = summarise(Estimate(jnp.asarray(mean), jnp.float32(3.0), numbers, {})).metrics
    trace = np.cov(grads.T).trace()
    signal = mean @ mean - trace / n
    np.testing.assert_allclose(metrics["snr"], signal / (trace / n), rtol=1e-4)
    np.testing.assert_allclose(metrics["n_crit"], trace / signal, rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], np.sqrt(mean @ mean), rtol=1e-6)
    assert float(metrics["delta_max"]) == 6 and float(metrics["delta_p50"]) == 3
