"""Large tensors, which no array of features is made of, and accumulators in bfloat16."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import LEARNED_OPTIMIZERS
from learned_opt.architectures import adafac_mlp, celo2, network, nn_adam, options, rows
from learned_opt.architectures.adafac_mlp import FEATURES
from learned_opt.architectures.features import (
    OVER_ALL,
    Decays,
    Norm,
    init_accumulators,
    init_state,
    make_tensor,
    observe,
)
from learned_opt.architectures.network import per_parameter_mlp
from learned_opt.architectures.rounding import stochastic_bfloat16
from learned_opt.architectures.transformation import non_finite_steps

NEVER = 2**62
DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))
# Blocks of 8 elements: of one row or several, with and without a rest, along the first axis or another.
SHAPES = {"vector": (19,), "matrix": (9, 4), "kernel": (2, 3, 7, 4)}
jit = functools.partial(
    jax.jit,
    compiler_options={"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True},
)


def numbers(shape, phase=0.0):
    return jnp.sin(1.3 * jnp.arange(np.prod(shape)) + phase).reshape(shape)


def layers(hidden):
    sizes = [28, hidden, hidden, 2]
    return [(0.5 * numbers(s, i), numbers(s[1:])) for i, s in enumerate(zip(sizes, sizes[1:], strict=False))]


def outputs(layers, fused_from, norm, names=SHAPES):
    """The network's outputs for tensors of SHAPES that have seen one gradient."""
    params = {name: numbers(SHAPES[name]) for name in names}
    grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
    tensors, _ = observe(grads, init_state(params, DECAYS), params, DECAYS)
    return per_parameter_mlp(FEATURES, tensors, layers, None, norm, fused_from)


@pytest.mark.parametrize(
    ("written_out", "norm"), [(10**9, OVER_ALL), (0, Norm(1e-9, 2))], ids=["written out", "by products"]
)
def test_the_fused_network_gives_what_the_network_on_an_array_of_features_gives(
    written_out, norm, monkeypatch
):
    monkeypatch.setattr(rows, "BLOCK", 8)
    monkeypatch.setattr(rows, "SUMMED", 8)
    monkeypatch.setattr(rows, "WRITTEN_OUT", written_out)
    fused, flat = jit(lambda layers: (outputs(layers, 0, norm), outputs(layers, NEVER, norm)))(layers(2))
    for got, want in zip(fused, flat, strict=True):
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_the_fused_network_has_the_same_derivatives(monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 8)
    monkeypatch.setattr(rows, "SUMMED", 8)

    def grads(fused_from):
        first = lambda layers: outputs(layers, fused_from, OVER_ALL, ["matrix"])[0]  # noqa: E731
        return jax.grad(lambda layers: jnp.sum(jnp.square(first(layers) - 0.3)))

    fused, flat = jit(lambda layers: (grads(0)(layers), grads(NEVER)(layers)))(layers(2))
    for got, want in zip(jax.tree.leaves(fused), jax.tree.leaves(flat), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4 * float(jnp.abs(want).max()))


@pytest.mark.parametrize("shape", [(19,), (9, 4), (4, 9), (2, 3, 7, 4), (50, 1), (1, 1)])
def test_blocks_cover_a_tensor_once(shape, monkeypatch):
    monkeypatch.setattr(rows, "BLOCK", 8)
    monkeypatch.setattr(rows, "SUMMED", 8)
    axes = tuple(range(len(shape)))
    x = numbers(shape)
    leading = lambda x: jnp.sum(x, axes[:-1], keepdims=True)  # noqa: E731
    total = rows.sum_over_blocks(leading, jnp.sum, x, shape, axes)
    np.testing.assert_allclose(total, jnp.sum(x), rtol=1e-5, atol=1e-5)
    put = rows.map_over_blocks(lambda x: jnp.stack([x, -x], -1), x, shape, 2, axes)
    np.testing.assert_array_equal(put, jnp.stack([x, -x], -1))


@pytest.mark.parametrize("shape", [(19,), (9, 4), (2, 3, 7, 4)])
def test_the_means_over_a_large_tensor_are_those_over_a_small_one(shape, monkeypatch):
    monkeypatch.setattr(rows, "SUMMED", 8)
    tensor = make_tensor(numbers(shape), numbers(shape), init_accumulators(numbers(shape), DECAYS))
    of = lambda t: [t.param[..., None], jnp.stack([t.grad, t.grad**2], -1)]  # noqa: E731
    monkeypatch.setattr(rows, "LARGE", NEVER)
    want = rows.tensor_means(of, tensor)
    monkeypatch.setattr(rows, "LARGE", 1)
    np.testing.assert_allclose(rows.tensor_means(of, tensor), want, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(rows.array_mean(tensor.param), want[0], rtol=1e-5, atol=1e-6)


def temporary_bytes(lopt, params):
    tx = lopt.build(jit(lopt.init)(jax.random.key(0)), None)
    state = jax.eval_shape(tx.init, params)
    step = jit(lambda g, s, p: tx.update(g, s, p), donate_argnums=(0, 1))
    return step.lower(params, state, params).compile().memory_analysis().temp_size_in_bytes


def test_a_large_tensor_needs_less_than_a_tenth_of_the_memory():
    params = {"w": jax.ShapeDtypeStruct((1024, 512), jnp.float32)}
    with non_finite_steps(skipped=False):
        fused, flat = (temporary_bytes(adafac_mlp(fused_from=n), params) for n in (0, NEVER))
    assert fused < 0.1 * flat, (fused, flat)


def test_skipping_steps_that_are_not_finite_needs_no_second_state():
    params = {"w": jax.ShapeDtypeStruct((1024, 512), jnp.float32)}
    lopt = adafac_mlp(fused_from=0)
    guarded = temporary_bytes(lopt, params)
    with non_finite_steps(skipped=False):
        alone = temporary_bytes(lopt, params)
    one_array = 4 * 1024 * 512  # the state has four of this size
    assert guarded - alone < 1.01 * one_array, (guarded, alone)


def test_what_is_large_is_fused_without_being_asked(monkeypatch):
    def fused(features, tensor, *rest):
        return jnp.zeros(tensor.grad.size)

    def run(params):
        tensors, _ = observe(params, init_state(params, DECAYS), params, DECAYS)
        return per_parameter_mlp(FEATURES, tensors, layers(2))

    monkeypatch.setattr(network, "fused_mlp", fused)
    large, small = jax.eval_shape(run, [jnp.zeros((256, 256)), jnp.zeros((3, 2))])
    assert large.shape == (256 * 256,) and small.shape == (3, 2, 2)


NARROW = [
    name
    for name, factory in LEARNED_OPTIMIZERS.items()
    if "state_dtype" in inspect.signature(factory).parameters
]


@pytest.mark.parametrize("name", NARROW)
def test_bfloat16_halves_the_large_accumulators(name):
    params = {"w": jnp.zeros((64, 64))}

    def state_bytes(dtype):
        lopt = LEARNED_OPTIMIZERS[name](state_dtype=dtype)
        theta = jax.eval_shape(lopt.init, jax.random.key(0))
        state = jax.eval_shape(lambda theta: lopt.build(theta, 10).init(params), theta)
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(state) if x.size >= 64 * 64)

    assert state_bytes("bfloat16") * 2 == state_bytes("float32") > 0


def test_bfloat16_accumulators_do_not_stand_still():
    """With rounding to nearest, decay 0.999 would leave v where an increment is below 1/512 of it."""
    params, steps = {"w": jnp.zeros((32, 32))}, 2000

    @jit
    def run(dtype_state):
        def step(state, _):
            grads = {"w": jnp.full((32, 32), 2.0)}
            return observe(grads, state, params, DECAYS)[1], None

        return jax.lax.scan(step, dtype_state, length=steps)[0].acc["w"]

    wide, narrow = (run(init_state(params, DECAYS, dtype)) for dtype in ("float32", "bfloat16"))
    assert narrow.rms.dtype == narrow.momentum.dtype == jnp.bfloat16
    # A rounding errs by at most 2^-7 of the value, and v forgets errors in 1,000 steps: standard deviation
    # below sqrt(500) 2^-7 / sqrt(6) = 7 % for an element, 0.2 % for the mean of 1,024 of them: 1 % is 4.5
    # of them, one set of hashes in 100,000.
    np.testing.assert_allclose(narrow.rms.astype(jnp.float32).mean(), wide.rms.mean(), rtol=0.01)
    np.testing.assert_allclose(
        narrow.momentum.astype(jnp.float32).mean((0, 1)), wide.momentum.mean((0, 1)), rtol=0.01
    )


def test_every_optimizer_with_accumulators_has_the_same_storage_option():
    assert set(LEARNED_OPTIMIZERS) - set(NARROW) == {"learnable_sgd", "spectral"}  # none, and few
    kinds = {
        inspect.signature(LEARNED_OPTIMIZERS[name]).parameters["state_dtype"].annotation for name in NARROW
    }
    assert kinds == {options.StateDtype}


def test_accumulators_outside_of_the_feature_state_do_not_stand_still_either():
    """As above, for v of decay .999 after 500 steps."""
    lopt = nn_adam(lstm_hidden=2, state_dtype="bfloat16")
    params, grads = {"w": jnp.zeros((32, 32))}, {"w": jnp.full((32, 32), 2.0)}

    @jit
    def run(key):
        tx = lopt.build(lopt.init(key), None)
        step = lambda state, _: (tx.update(grads, state, params)[1], None)  # noqa: E731
        return jax.lax.scan(step, tx.init(params), length=500)[0]

    state = run(jax.random.key(0))
    v = state.state.v["w"]
    assert v.dtype == state.state.m["w"].dtype == jnp.bfloat16 and int(state.count) == 500
    # beta2 starts at .999 and hardly moves; rounding errs by less than 0.2 % in the mean (see above).
    np.testing.assert_allclose(v.astype(jnp.float32).mean(), 4 * (1 - 0.999**500), rtol=0.02)


def test_stochastic_rounding_is_right_on_average_and_exact_where_it_can_be():
    x = jnp.full((4096,), 1.0 + 0.3 / 128)  # 0.3 of the way between two neighbours
    got = stochastic_bfloat16(x, 3).astype(jnp.float32)
    assert set(np.unique(got)) == {np.float32(1.0), np.float32(1 + 1 / 128)}
    # Share of those rounded up: standard error sqrt(.3 * .7 / 4096) = 0.0072; 4 of them, one salt in 15,000.
    assert abs(float((got > 1).mean()) - 0.3) < 0.029
    exact = jnp.array([0.0, -1.5, 3.0, jnp.inf, 2.0**-20])
    np.testing.assert_array_equal(stochastic_bfloat16(exact, 1).astype(jnp.float32), exact)
    np.testing.assert_array_equal(jax.grad(lambda x: stochastic_bfloat16(x, 1).sum())(x), np.ones(4096))


def test_a_step_with_bfloat16_accumulators_is_nearly_that_with_float32():
    params = {"w": numbers((8, 8))}
    grads = jax.tree.map(lambda p: jnp.cos(3 * p), params)
    theta = jit(celo2().init)(jax.random.key(0))

    def update(dtype):
        tx = celo2(orthogonalise=False, state_dtype=dtype).build(theta, None)
        return jit(lambda g, p: tx.update(g, tx.init(p), p)[0]["w"])(grads, params)

    wide, narrow = update("float32"), update("bfloat16")
    assert float(jnp.abs(wide - narrow).max()) < 0.05 * float(jnp.abs(wide).max())
    assert float(jnp.abs(wide - narrow).max()) > 0
