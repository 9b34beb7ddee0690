"""Members and particles over one mesh, and task weights that are searched."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from meta_train.core import combine
from meta_train.population import meta_training as lib
from meta_train.population.base import Rhythm
from meta_train.population.engine import engine
from meta_train.population.mesh import divided, member_mesh
from meta_train.population.meta_training import meta_training
from meta_train.population.toys import surrogate

F32 = np.float32
FREE = ("log_lr",)
CONFIG = {
    "outer_steps": 10,
    "tasks": [{"name": "quadratic", "dim": 2, "label": "small"}, {"name": "quadratic", "label": "large"}],
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": 4},
    "estimator": {"name": "nres", "num_particles": 4, "truncation_length": 2, "sigma": 0.1},
    "outer_optimizer": {"name": "sgd", "learning_rate": 10.0},
    "selection": {"tasks": [{"name": "quadratic", "dim": 2}]},
}
ONE_TASK = CONFIG | {"tasks": CONFIG["tasks"][:1]}


def trained(num_members=4, members=1, particles=1, **options):
    """Two rounds with a copy between them; scaling averages over the particles of all devices."""
    config = ONE_TASK | {"loss_scaling": "ema", "outer_optimizer": {"name": "adam", "learning_rate": 0.1}}
    trainer = meta_training(("sigma",), config=config | options, horizon=4, num_seeds=2)
    run = engine(trainer, num_members, Rhythm(2, 2), mesh=member_mesh(members, num_members, particles))
    hypers = {"sigma": np.geomspace(0.1, 0.3, num_members, dtype=F32)}
    state = run.init(jax.random.key(0), hypers)
    state, first = run.train(state, hypers, jax.random.key(1), np.int32(0), trainer.data)
    source = np.roll(np.arange(num_members, dtype=np.int32), 1)
    source[0] = 2
    state = run.gather(state, source)
    state, last = run.train(state, hypers, jax.random.key(1), np.int32(1), trainer.data)
    return run, state, np.concatenate([first, last], 1)


def numbers(tree):
    return [
        np.asarray(jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x)
        for x in jax.tree.leaves(tree)
    ]


def check_agrees(one, other, scores, found):
    for a, b in zip(numbers(one), numbers(other), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(scores, found, rtol=1e-5)


def check_placed(state, num_members, num_particles, members, particles):
    """Whatever has one row per member and particle is split along both axes; the rest along members."""
    rows = 0
    for x in jax.tree.leaves(state):
        shard = x.sharding.shard_shape(x.shape)
        assert shard[0] == num_members // members
        if x.shape[1:2] == (num_particles,):
            assert shard[1] == num_particles // particles
            rows += 1
    largest = max(jax.tree.leaves(state.inner.states), key=lambda x: x.size)
    per_device = [shard.data.size for shard in largest.addressable_shards]
    assert rows and max(per_device) * members * particles == largest.size


def test_members_and_their_particles_over_one_mesh_agree_with_one_device():
    _, one, scores = trained()
    run, state, found = trained(members=2, particles=2)
    check_agrees(one, state, scores, found)
    check_placed(state, 4, 4, 2, 2)
    # A copy passes the rows of a device round; nowhere are they gathered.
    text = run.gather.lower(state, np.arange(4, dtype=np.int32)).compile().as_text()
    assert "collective-permute" in text and "all-gather" not in text


EIGHT = """
import test_population_mesh as mesh
_, one, scores = mesh.trained()
_, state, found = mesh.trained(members=4, particles=2)
mesh.check_agrees(one, state, scores, found)
mesh.check_placed(state, 4, 4, 4, 2)
_, state, found = mesh.trained(members=2, particles=4)
mesh.check_agrees(one, state, scores, found)
mesh.check_placed(state, 4, 4, 2, 4)
exact = {"mesh": {"deterministic": True}, "runtime": {"particle_chunk": 1}, "loss_scaling": "none"}
exact["learned_optimizer"] = {"name": "per_param_mlp", "hidden": 4}  # matrices, which Adam's update divides
_, one, scores = mesh.trained(**exact)
for particles in (2, 4):
    _, other, found = mesh.trained(particles=particles, **exact)
    assert (scores == found).all()
    for a, b in zip(mesh.numbers(one), mesh.numbers(other), strict=True):
        assert (a == b).all(), (a, b)
"""


@pytest.mark.slow
def test_members_and_their_particles_over_eight_devices_agree_with_one():
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    env = os.environ | {"XLA_FLAGS": flags, "PYTHONPATH": os.path.dirname(__file__)}
    subprocess.run([sys.executable, "-c", EIGHT], env=env, check=True, timeout=900)


@pytest.mark.parametrize(
    ("mesh", "message"),
    [
        (
            (4, 4, 2),
            "^mesh.members times mesh.particles must be between 1 and 4, the devices there are, got 4",
        ),
        ((2, 3, 2), "^mesh.members must divide the 3 members, got 2$"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused_by_name(mesh, message):
    with pytest.raises(ValueError, match=message):
        member_mesh(*mesh)


def test_particles_that_cannot_be_split_are_refused_before_anything_compiles():
    with pytest.raises(ValueError, match="^mesh.particles must be 1 for a trainer without particles, got 2$"):
        divided(surrogate(), 2)
    message = "^mesh.particles must divide the 4 particles of a member .task 'small'., got 3$"
    with pytest.raises(ValueError, match=message):
        divided(meta_training(config=CONFIG), 3)


@pytest.fixture(scope="module")
def weighed():
    """A member, and what one step makes of it as a function of a weight."""
    trainer = meta_training(("weight.large",), config=CONFIG, horizon=4, num_seeds=1)
    member = jax.jit(trainer.init)(jax.random.key(0), {"weight.large": jnp.float32(1)})
    step = jax.jit(
        lambda weight: trainer.step(member, {"weight.large": weight}, jax.random.key(1), trainer.data)
    )
    return member, step


def moved(member, after):
    """theta's change, as one vector."""
    pairs = zip(
        jax.tree.leaves(member.weights["theta"]), jax.tree.leaves(after.weights["theta"]), strict=True
    )
    return np.concatenate([np.ravel(b - a) for a, b in pairs])


def test_the_gradient_follows_the_weights_and_nothing_compiles_again(weighed):
    member, step = weighed
    small, equal, much = (moved(member, step(F32(w))) for w in (0, 1, 3))
    large = 2 * equal - small
    assert np.abs(small - large).max() > 1e-4
    np.testing.assert_allclose(much, (small + 3 * large) / 4, atol=5e-6)  # theta is 18
    assert step._cache_size() == 1


def test_weight_0_is_training_on_the_other_tasks_alone(weighed):
    member, step = weighed
    alone = meta_training(config=ONE_TASK, horizon=4, num_seeds=1)
    inner = combine.AverageState({"small": member.inner.states["small"]}, None, member.inner.counts[:1])
    after = jax.jit(alone.step)(member._replace(inner=inner), {}, jax.random.key(1), alone.data)
    np.testing.assert_allclose(moved(member, after), moved(member, step(F32(0))), atol=5e-6)
    assert not any(name.startswith("weight.") for name in alone.hypers)  # one task has nothing to weigh


def test_frozen_parts_of_theta_stay_where_they_are(monkeypatch):
    build = lib.learned_optimizer
    monkeypatch.setattr(lib, "learned_optimizer", lambda settings: build(settings)._replace(trained=FREE))
    trainer = meta_training(config=ONE_TASK, horizon=4, num_seeds=1)
    member = jax.jit(trainer.init)(jax.random.key(0), {})
    after = jax.jit(trainer.step)(member, {}, jax.random.key(1), trainer.data)
    before, after = member.weights["theta"], after.weights["theta"]
    assert {name for name in before if before[name] != after[name]} == set(FREE)


def test_a_rotation_of_tasks_is_refused():
    with pytest.raises(ValueError, match="^config.rotation must be null: all members run one program$"):
        meta_training(config=CONFIG | {"rotation": {"active": 1, "every": 5}})
