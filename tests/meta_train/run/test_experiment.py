"""What is refused, by name, when the objects of a run do not fit together; nothing is compiled for it."""

import jax
import jax.numpy as jnp
import pytest

import learned_opt
from learned_opt import learnable_adam
from meta_train.config import load as config_lib
from meta_train.core.system import UnrolledSystem
from meta_train.errors import ConfigError
from meta_train.estimators import GradientEstimator, pes
from meta_train.inner import inner_training
from meta_train.run.experiment import assemble, call_length
from meta_train.run.forecast import forecast, tree_bytes
from meta_train.run.shapes import check_gradient, check_system
from tasks.families.quadratic import quadratic

CONFIG = {
    "outer_steps": 60,
    "tasks": [{"name": "quadratic", "dim": 3}],
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": 20},
    "estimator": {"name": "pes", "num_particles": 4, "truncation_length": 5, "sigma": 0.1},
    "outer_optimizer": {"learning_rate": 0.01},
    "checkpoint": {"every": 20},
    "logging": {"every": 4},
}


def test_one_call_does_as_many_outer_steps_as_the_cadences_allow():
    assert call_length(config_lib.parse(CONFIG)) == 4
    every = {"checkpoint": {"every": None}, "logging": {"every": 60}}
    assert call_length(config_lib.parse(CONFIG | every)) == 30


def test_the_forecast_is_the_size_of_the_real_state():
    experiment = assemble(config_lib.parse(CONFIG))
    sizes, state = forecast(experiment), experiment.outer.init(jax.random.key(0))
    assert sizes.num_meta_parameters == sum(x.size for x in jax.tree.leaves(state.theta)) == 4
    assert sizes.particles == tree_bytes(state.estimator_state)
    assert sizes.noise == 3 * 4 * 4 * 4
    assert sizes.inner_steps == 2 * 4 * 5


def system(step):
    return UnrolledSystem(lambda theta, key: (jnp.zeros(2), 4), step, 4, 4)


def test_a_loss_that_is_not_a_scalar_is_named():
    bad = system(lambda theta, s, key, data: (s, s))
    with pytest.raises(ValueError, match=r"loss must be one float, got float32\[2\]"):
        check_system(bad, learnable_adam(), ())


def test_a_state_that_changes_its_shape_is_named():
    bad = system(lambda theta, s, key, data: (s.astype(jnp.bfloat16), s.sum()))
    with pytest.raises(ValueError, match=r"got float32\[2\], then bfloat16\[2\]"):
        check_system(bad, learnable_adam(), ())


def test_a_gradient_that_is_not_like_theta_is_named():
    family, lopt = quadratic(dim=2), learnable_adam()
    good = pes(inner_training(family, lopt, unroll_length=10, multiple=5), truncation_length=5)
    check_gradient(good, lopt, family.data)

    def estimate(theta, state, key, data):
        found, state = good.estimate(theta, state, key, data)
        return found._replace(grad=found.grad | {"log_lr": jnp.zeros(3)}), state

    with pytest.raises(
        ValueError, match=r"grad\['log_lr'\] must be like theta, float32\[\], got float32\[3\]"
    ):
        check_gradient(GradientEstimator(good.init, estimate, 16, 0), lopt, family.data)


def test_a_run_may_begin_with_the_theta_of_an_artefact(tmp_path):
    theta = jax.tree.map(lambda x: x + 0.5, learnable_adam().init(jax.random.key(0)))
    learned_opt.save(
        tmp_path / "a", name="learnable_adam", options={}, theta=theta, horizon=None, provenance={}
    )
    experiment = assemble(config_lib.parse(CONFIG | {"init_from": str(tmp_path / "a")}))
    state = experiment.outer.init(jax.random.key(0))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), state.theta, theta))

    with pytest.raises(ConfigError, match="init_from: must be an artefact of learnable_sgd, got one of"):
        other = CONFIG | {"learned_optimizer": {"name": "learnable_sgd"}}
        assemble(config_lib.parse(other | {"init_from": str(tmp_path / "a")}))
    with pytest.raises(ConfigError, match='init_from: there is no such directory; .*/nowhere"'):
        assemble(config_lib.parse(CONFIG | {"init_from": "nowhere"}))
