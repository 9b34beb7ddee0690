"""The forecast of memory, against what the compiled program says of itself."""

import jax
import jax.numpy as jnp
import pytest

from learned_opt import LEARNED_OPTIMIZERS
from meta_train.estimators import ESTIMATORS
from meta_train.inner import inner_training
from meta_train.memory import forecast_bytes
from tasks import make

MIB = 2**20


def matrix(n):
    return jax.ShapeDtypeStruct((n, n), jnp.float32)


def test_what_is_stored_counts_and_what_is_fused_does_not():
    x = matrix(512)  # 1 MiB
    assert forecast_bytes(lambda x: jnp.tanh(x) * 2 + 1, x) == 0
    assert forecast_bytes(lambda x: (x @ x) @ x, x) == MIB
    assert forecast_bytes(lambda x: jnp.tanh(x @ x) @ x, x) == MIB
    assert forecast_bytes(lambda x: (x @ x) @ (x @ (x @ x)), x) == 3 * MIB
    loop = lambda x: jax.lax.scan(lambda c, _: (c @ c, None), x, None, length=9)[0]  # noqa: E731
    assert MIB <= forecast_bytes(lambda x: loop(x) + 1, x) <= 3 * MIB


@pytest.mark.slow
@pytest.mark.parametrize(
    "name, optimizer, particles",
    [("pes", "per_param_mlp", 16), ("pes", "adafac_mlp", 16), ("tbptt", "adafac_mlp", 4)],
)
def test_the_forecast_of_a_window_is_within_a_fifth_of_the_compiled_program(name, optimizer, particles):
    lopt, family = LEARNED_OPTIMIZERS[optimizer](), make({"name": "teacher_mlp"})
    system = inner_training(family, lopt, unroll_length=200, multiple=20)
    estimator = ESTIMATORS[name](system, num_particles=particles, truncation_length=20)
    key = jax.random.key(0)
    theta = jax.eval_shape(lopt.init, key)
    state = jax.eval_shape(estimator.init, theta, key)
    found = forecast_bytes(estimator.estimate, theta, state, key, family.data)
    compiled = jax.jit(estimator.estimate, donate_argnums=1).lower(theta, state, key, family.data).compile()
    used = compiled.memory_analysis()
    kept = used.argument_size_in_bytes
    print((kept + found) / (kept + used.temp_size_in_bytes))
    assert abs((kept + found) / (kept + used.temp_size_in_bytes) - 1) < 0.2
