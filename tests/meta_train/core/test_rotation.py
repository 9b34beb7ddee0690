"""Families that take turns, with a program each."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from meta_train.config import load as config_lib
from meta_train.core.combine import average
from meta_train.core.devices import particle_mesh, shard
from meta_train.core.outer import make_outer_step
from meta_train.core.rotation import Rotation, _Programs, make_mixture_step
from meta_train.core.system import UnrolledSystem
from meta_train.errors import ConfigError
from meta_train.estimators import ESTIMATORS
from meta_train.run import train
from meta_train.run.metrics import read_jsonl

NUMBER = jax.ShapeDtypeStruct((), jnp.float32)


def family(slope, devices=1):
    """Its exact gradient, `slope * data`, from an estimator on that many devices."""
    system = UnrolledSystem(
        lambda theta, key: (jnp.zeros(3), jnp.int32(2)),
        lambda theta, s, key, data: (s, data * jnp.vdot(jnp.asarray(slope, jnp.float32), theta)),
        2,
        2,
    )
    one = ESTIMATORS["tbptt"](system, num_particles=4, truncation_length=1, stagger=False)
    return shard(one, particle_mesh(devices))


def everywhere(devices=1):
    return NamedSharding(particle_mesh(devices), PartitionSpec())


def init_theta(key):
    return jnp.zeros(2) + 1


@pytest.mark.parametrize("scaling", ["none", "ema", "loss"])
@pytest.mark.parametrize("devices", [1, 2])
def test_with_all_families_active_it_is_the_average_of_them(scaling, devices):
    families = {"a": family([1, 0], devices), "b": family([0, 10], devices), "c": family([1, 1], devices)}
    data = {label: jnp.float32(1) for label in families}
    rotation = Rotation(tuple(families), (1.0, 1.0, 1.0), 3, 2, 0)
    turns = make_mixture_step(
        init_theta, families, optax.adam(0.1), rotation, data, everywhere(devices), scaling=scaling, ema=0.5
    )
    whole = make_outer_step(init_theta, average(families, scaling=scaling), optax.adam(0.1), ema=0.5)
    states = [loop.init(jax.random.key(0)) for loop in (turns, whole)]
    for _ in range(5):
        found = [loop.step(state, data) for loop, state in zip((turns, whole), states, strict=True)]
        states = [state for state, _ in found]
    for name in ("theta", "theta_ema"):
        np.testing.assert_allclose(getattr(states[0], name), getattr(states[1], name), rtol=1e-5)
    one, other = (metrics for _, metrics in found)
    assert set(one) == set(other)
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    np.testing.assert_allclose(one["b/grad_norm"], other["b/grad_norm"], rtol=1e-5)


def test_the_weights_say_how_often_a_family_is_drawn():
    # 4000 draws of 1 of 3: counts of 2000, 1000 and 1000 with std 32 and 27; 150 is more than 4.7 of them.
    rotation = Rotation(("a", "b", "c"), (2.0, 1.0, 1.0), 1, 10, 0)
    drawn = [rotation.at(10 * i)[0] for i in range(4000)]
    np.testing.assert_allclose([drawn.count(x) for x in "abc"], [2000, 1000, 1000], atol=150)
    assert all(rotation.at(i) == rotation.at(i // 10 * 10) for i in range(100))
    two = Rotation(("a", "b", "c"), (1.0, 1.0, 1.0), 2, 10, 0)
    assert all(len(set(two.at(i))) == 2 for i in range(0, 500, 10))


def test_families_of_equal_computation_share_a_program():
    families = {"a": family([1, 0]), "b": family([1, 0]), "c": family([0, 1])}
    programs = _Programs(init_theta, families, dict.fromkeys(families, NUMBER))
    programs.compile(tuple(families))
    assert programs.count == 1 + 2  # one init, and two windows that differ in a constant
    assert programs.estimate("a") is programs.estimate("b") is not programs.estimate("c")


RAW = {
    "outer_steps": 24,
    "tasks": [{"name": "quadratic", "dim": dim} for dim in (2, 3, 4)] + [{"name": "digits_softmax"}],
    "rotation": {"active": 2, "every": 4},
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": 8},
    "estimator": {"name": "pes", "num_particles": 2, "truncation_length": 4, "sigma": 0.1},
    "outer_optimizer": {"learning_rate": 0.01, "ema": 0.9},
    "loss_scaling": "ema",
    "checkpoint": {"every": 6},
    "logging": {"every": 2},
}


def test_a_rotating_run_is_resumed_bit_for_bit_and_its_metrics_name_who_was_active(interrupted, tmp_path):
    config = config_lib.parse(RAW)
    whole = train.run(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", at=20)
    parts = train.run(config, tmp_path / "parts", resume=True)
    jax.tree.map(np.testing.assert_array_equal, parts.theta, whole.theta)
    rows = [row for row in read_jsonl(tmp_path / "whole" / "metrics.jsonl") if "loss" in row]
    seen = [{name.split("/")[0] for name in row if name.endswith("/snr")} for row in rows]
    assert all(len(labels) == 2 for labels in seen)
    assert set.union(*seen) == {"quadratic_1", "quadratic_2", "quadratic_3", "digits_softmax"}


def test_more_active_families_than_there_are_is_refused():
    with pytest.raises(ConfigError, match=r"rotation.active: must be at most the number of tasks \(4\)"):
        config_lib.parse(RAW | {"rotation": {"active": 5, "every": 4}})
