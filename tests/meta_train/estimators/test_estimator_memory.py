"""Memory of the estimators, by the compiled program's own account."""

import jax
import jax.numpy as jnp
import pytest

from learned_opt import LEARNED_OPTIMIZERS
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import ESTIMATORS
from meta_train.inner import Objective, inner_training
from tasks import make


@pytest.mark.parametrize(
    "name, thetas",
    [("pes", 3), ("nres", 3), ("truncated_es", 4)],  # xi or the noise, and a theta for each rollout
)
def test_a_particle_holds_its_thetas_and_one_accumulator(name, thetas):
    """State and temporaries: `thetas` |theta| a particle, and room to draw the noise of one of them."""
    size, n = 100_000, 8
    system = UnrolledSystem(
        lambda theta, key: (jnp.float32(0.0), jnp.int32(20)),
        lambda theta, s, key, data: (0.9 * s + jnp.square(theta).mean(), s),
        20,
        20,
    )
    estimator = ESTIMATORS[name](system, num_particles=n, truncation_length=5)
    theta = jnp.zeros(size)
    state = jax.eval_shape(estimator.init, theta, jax.random.key(0))
    compiled = (
        jax.jit(estimator.estimate, donate_argnums=1).lower(theta, state, jax.random.key(0), ()).compile()
    )
    used = compiled.memory_analysis()
    kept = used.alias_size_in_bytes  # the donated state
    assert used.temp_size_in_bytes + kept < 4 * size * (thetas * n + 7)


def test_large_thetas_get_the_noise_of_small_ones():
    """Working through the particles group by group changes no number."""
    theta = jnp.zeros(100_000)
    system = UnrolledSystem(
        lambda theta, key: (jnp.float32(0.0), jnp.int32(2)),
        lambda theta, s, key, data: (s, theta.sum()),
        2,
        2,
    )
    grads = []
    for n in (1, 4):
        estimator = ESTIMATORS["pes"](system, num_particles=n, truncation_length=1, sigma=0.1, stagger=False)
        state = jax.jit(estimator.init)(theta, jax.random.key(0))
        _, state = jax.jit(estimator.estimate)(theta, state, jax.random.key(1), ())
        grads.append(state.state.xi)
    assert jnp.array_equal(grads[0][0], grads[1][0]) and len(jnp.unique(grads[1][:, 0])) == 4


@pytest.mark.slow
def test_a_thousand_steps_of_a_network_fit_into_a_gibibyte():
    """TBPTT, K = 1000, 16 particles of a 64-32-10 network (|params| = 2410) and the per-parameter MLP.

    The 1000 states of 16 particles take 1.2 GiB; with the states of sqrt(1000) segments alone, a tenth.
    """
    lopt, family = LEARNED_OPTIMIZERS["per_param_mlp"](), make({"name": "teacher_mlp"})
    system = inner_training(family, lopt, unroll_length=1000, multiple=1000, objective=Objective())
    key = jax.random.key(0)
    theta, used = jax.eval_shape(lopt.init, key), {}
    for remat in (True, "sqrt"):
        estimator = ESTIMATORS["tbptt"](system, num_particles=16, truncation_length=1000, remat=remat)
        state = jax.eval_shape(estimator.init, theta, key)
        compiled = jax.jit(estimator.estimate).lower(theta, state, key, family.data).compile()
        used[remat] = compiled.memory_analysis().temp_size_in_bytes / 2**30
    print(used)
    assert used["sqrt"] < 0.25 and used[True] > 4 * used["sqrt"]
