"""Every program of the project lowers for a GPU and for a TPU, although neither is at hand.

Lowering turns a traced program into the compiler's input for a platform, kernels included. It fails where an
operation has no rule there, and where a choice was made by the machine that traces.
"""

import inspect

import jax
import jax.numpy as jnp
import optax
import pytest

from learned_opt import LEARNED_OPTIMIZERS
from learned_opt.architectures import rows
from meta_train.core.combine import average
from meta_train.core.devices import particle_mesh, shard
from meta_train.core.outer import make_outer_step
from meta_train.estimators import ESTIMATORS
from meta_train.inner import inner_training
from tasks import TASKS

PLATFORMS = ("cuda", "tpu")
ON = pytest.mark.parametrize("platform", PLATFORMS)
T, K = 8, 4
SMALL = {"num_particles": 4, "truncation_length": K}


def lowered(function, platform, *args):
    """The program's text for a platform."""
    return jax.jit(function).trace(*args).lower(lowering_platforms=(platform,)).as_text()


@pytest.fixture(scope="module")
def system():
    family = TASKS["quadratic"](dim=4)
    lopt = LEARNED_OPTIMIZERS["learnable_sgd"]()
    return family, lopt, inner_training(family, lopt, unroll_length=T, multiple=K)


def outer_step(system, name):
    family, lopt, inner = system
    known = inspect.signature(ESTIMATORS[name]).parameters
    options = {option: value for option, value in SMALL.items() if option in known}
    estimator = shard(ESTIMATORS[name](inner, **options), particle_mesh(2))
    outer = make_outer_step(lopt.init, average({"q": estimator}), optax.adam(1e-3), steps_per_call=2)
    state = jax.eval_shape(outer.init, jax.random.key(0))
    return outer.step, state, {"q": family.data}


@ON
@pytest.mark.parametrize("name", ESTIMATORS)
def test_the_outer_step_of_every_estimator_lowers_on_two_devices(system, name, platform):
    step, state, data = outer_step(system, name)
    text = step.trace(state, data).lower(lowering_platforms=(platform,)).as_text()
    assert "stablehlo" in text and "callback" not in text


LARGE = {
    "embed": jnp.zeros((2048, 256)),
    "matrix": jnp.zeros((256, 1024)),
    "conv": jnp.zeros((3, 3, 64, 128)),
    "bias": jnp.zeros(1024),
}


@ON
@pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)
def test_every_optimizer_lowers_with_large_tensors(name, platform):
    lopt = LEARNED_OPTIMIZERS[name]()
    theta = jax.eval_shape(lopt.init, jax.random.key(0))

    def step(theta, params, grads):
        tx = lopt.build(theta, 1000)
        return tx.update(grads, tx.init(params), params, value=jnp.float32(1.0))

    assert "callback" not in lowered(step, platform, theta, LARGE, LARGE)


@pytest.mark.parametrize("platform", ["cpu", *PLATFORMS])
def test_sums_over_a_large_tensor_are_loops_over_small_blocks_on_a_cpu_alone(platform):
    of = lambda x: rows.array_mean(jnp.sin(x))  # noqa: E731
    assert ("stablehlo.while" in lowered(of, platform, LARGE["matrix"])) == (platform == "cpu")


def test_a_program_that_a_platform_cannot_run_is_seen():
    def on_a_cpu_alone(x):
        return jax.lax.platform_dependent(x, cpu=jnp.sin)

    assert "sine" in lowered(on_a_cpu_alone, "cpu", 1.0)
    for platform in PLATFORMS:
        with pytest.raises(NotImplementedError, match=platform):
            lowered(on_a_cpu_alone, platform, 1.0)
