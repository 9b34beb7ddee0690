"""The quick score that picks the best checkpoint, on a problem with known answers; all keys are fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.evaluation.curves import curves, final_loss, seed_keys, trainer
from meta_train.evaluation.held_out import make_held_out
from tasks.base import Task, fixed


@pytest.fixture(scope="module")
def family():
    task = Task(
        lambda key: 3 * jax.random.normal(key, (3,)),
        lambda x, key, data: 0.5 * jnp.mean((x - data[jax.random.randint(key, (4,), 0, 40)]) ** 2),
    )
    rows = jax.random.normal(jax.random.key(1), (40, 3)) * 0.1
    return fixed(task, {"train": rows})


def adam_of(theta, num_steps):
    del num_steps
    return optax.adam(theta)


def test_the_held_out_score_ranks_optimizers_compiles_once_and_repeats_itself(family):
    traces = []

    def build(theta, num_steps):
        traces.append(1)
        return adam_of(theta, num_steps)

    score = make_held_out(build, {"quadratic": family}, horizons=(20, 40), num_seeds=2, final_steps=5)
    assert not traces  # nothing is compiled before the first call
    good, traced = score(jnp.float32(0.3)), len(traces)
    again, bad, lost = score(jnp.float32(0.3)), score(jnp.float32(1e-4)), score(jnp.float32(jnp.inf))
    assert len(traces) == traced
    assert good == again and set(good) == {"score", "diverged", "quadratic/20", "quadratic/40"}
    np.testing.assert_allclose(
        good["score"], np.log([good["quadratic/20"], good["quadratic/40"]]).mean(), rtol=1e-6
    )
    assert good["score"] < 0 < bad["score"] < lost["score"] == pytest.approx(np.log(1000))
    assert lost["diverged"] == 1 and good["diverged"] == 0


def test_without_a_baseline_the_held_out_score_is_the_log_loss(family):
    score = make_held_out(
        adam_of, {"quadratic": family}, horizons=(20,), num_seeds=2, learning_rates=(), final_steps=5
    )
    train = trainer(family, adam_of, 20, num_valid_batches=0)
    found = curves(train, np.array([0.3], np.float32), seed_keys("selection", 2), 20)
    np.testing.assert_allclose(score(jnp.float32(0.3))["quadratic/20"], final_loss(found.train[0], 5).mean())
    with pytest.raises(ValueError, match=r"^horizons must be >= final_steps \(5\), got \(3,\)"):
        make_held_out(adam_of, {"quadratic": family}, horizons=(3,), final_steps=5)
