"""What can be a member: each trainer against the same training done by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.errors import ConfigError
from meta_train.estimators.noise import set_sigma
from meta_train.population.base import Decision, Member, Rhythm, Setting, Trainer
from meta_train.population.check_trainer import check_trainer
from meta_train.population.controllers import pbt, random_search
from meta_train.population.engine import Copy, engine
from meta_train.population.lineage import winner
from meta_train.population.mesh import member_mesh
from meta_train.population.meta_training import meta_training
from meta_train.population.rounds import begin, evolve, population
from meta_train.population.space import linear
from meta_train.population.supervised import supervised
from tasks import TASKS

TASK = {"name": "image_mlp", "hidden": [4], "batch_size": 8, "datasets": ["digits[:100]"]}
F32 = np.float32


def test_a_supervised_member_is_plain_training_with_its_own_hypers():
    trainer = supervised(
        ("learning_rate", "weight_decay"), task=TASK, optimizer={"name": "adamw"}, num_valid_batches=2
    )
    run = engine(trainer, 2, Rhythm(4, 2))
    hypers = {"learning_rate": np.array([0.01, 0.1], F32), "weight_decay": np.array([0.5, 0.0], F32)}
    members = run.init(jax.random.key(0), hypers)
    first = jax.device_get(members.weights)
    after, scores = run.train(members, hypers, jax.random.key(1), np.int32(3), trainer.data)

    family = TASKS["image_mlp"](hidden=(4,), batch_size=8, datasets=("digits[:100]",))
    task = family.task(family.sample(jax.random.split(jax.random.key(0))[0]))

    @jax.jit
    def by_hand(params, rate, decay, keys):
        opt = optax.adamw(rate, weight_decay=decay)

        def step(carry, key):
            params, state = carry
            updates, state = opt.update(jax.grad(task.loss)(params, key, family.data["train"]), state, params)
            return (optax.apply_updates(params, updates), state), None

        return jax.lax.scan(step, (params, opt.init(params)), keys)[0][0]

    for m in range(2):
        keys = jax.random.split(jax.random.fold_in(jax.random.fold_in(jax.random.key(1), m), 3), 4)
        given = jax.tree.map(lambda x, m=m: x[m], (first, hypers["learning_rate"], hypers["weight_decay"]))
        for a, b in zip(*map(jax.tree.leaves, (by_hand(*given, keys), after.weights)), strict=True):
            np.testing.assert_allclose(a, b[m], rtol=2e-4, atol=1e-5)
    assert scores.shape == (2, 2) and np.isfinite(scores).all()


META = {
    "outer_steps": 10,
    "tasks": [{"name": "quadratic", "dim": 2}],
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": 4},
    "estimator": {"name": "nres", "num_particles": 2, "truncation_length": 2, "sigma": 0.01},
    "outer_optimizer": {"name": "adam", "clip_norm": 1.0},
}


@pytest.fixture(scope="module")
def meta():
    trainer = meta_training(("learning_rate", "sigma"), config=META, horizon=4, num_seeds=1)
    return trainer, engine(trainer, 2, Rhythm(4, 2))


def test_members_of_a_meta_training_have_their_own_outer_rate_and_sigma(meta):
    trainer, run = meta
    hypers = {"learning_rate": np.array([0.0, 0.1], F32), "sigma": np.array([0.05, 0.2], F32)}
    members = run.init(jax.random.key(0), hypers)
    before = jax.device_get(members.weights["theta"])
    after, scores = run.train(members, hypers, jax.random.key(1), np.int32(0), trainer.data)
    pairs = list(zip(*map(jax.tree.leaves, (before, after.weights["theta"])), strict=True))
    moved = [any((x[m] != y[m]).any() for x, y in pairs) for m in range(2)]
    assert moved == [False, True]
    sigmas = [x for path, x in jax.tree_util.tree_leaves_with_path(after.inner) if name_of(path) == "sigma"]
    assert sigmas and all((np.asarray(x) == np.array([[0.05], [0.2]], F32)).all() for x in sigmas)
    assert np.isfinite(scores).all()


def name_of(path):
    return getattr(path[-1], "name", "")


def test_a_sigma_is_written_where_the_estimator_keeps_it_and_nowhere_else(meta):
    trainer, _ = meta
    given = {"learning_rate": jnp.float32(0.1), "sigma": jnp.float32(0.2)}
    shapes = jax.eval_shape(trainer.init, jax.random.key(0), given).inner
    state = jax.tree.map(lambda x: x if "key" in str(x.dtype) else np.zeros(x.shape, x.dtype), shapes)
    for path, x in jax.tree_util.tree_leaves_with_path(set_sigma(state, 0.2)):
        if isinstance(x, np.ndarray | jax.Array):
            assert (x == (np.float32(0.2) if name_of(path) == "sigma" else 0)).all()


def test_inner_problems_that_are_not_copied_begin_anew(meta):
    trainer, compiled = meta
    run = engine(trainer, 2, Rhythm(4, 2), copy=Copy(inner=False))
    hypers = {"learning_rate": np.array([0.1, 0.1], F32), "sigma": np.array([0.1, 0.1], F32)}
    members = run.gather(compiled.init(jax.random.key(0), hypers), np.array([0, 0], np.int32))
    flags = [
        x for path, x in jax.tree_util.tree_leaves_with_path(members.inner) if name_of(path) == "diverged"
    ]
    assert flags and all(not np.asarray(x)[0].any() and np.asarray(x)[1].all() for x in flags)


@pytest.mark.parametrize(
    ("searched", "options", "message"),
    [
        (
            ("sigma",),
            {"estimator": {"name": "tbptt", "truncation_length": 2}},
            "^sigma is not in the state of",
        ),
        ((), {"estimator": {"name": "nres", "truncation_length": 3}}, "truncation_length"),
        ((), {"outer_optimizer": {"name": "adam"}}, "learning_rate"),
    ],
)
def test_a_meta_training_that_cannot_work_is_refused(searched, options, message):
    config = META | {"outer_optimizer": {"name": "adam", "learning_rate": 0.1}} | options
    with pytest.raises((ConfigError, ValueError), match=message):
        meta_training(searched, config=config)


# The engine, on a trainer whose arithmetic is exact.


def counter():
    """Adds `hypers["rate"]` and a random bit at every step."""

    def step(member, hypers, key, data):
        w = member.weights + hypers["rate"] + jax.random.bernoulli(key).astype(jnp.float32)
        return Member(w, member.opt_state + 1, member.inner + 1)

    return Trainer(
        init=lambda key, hypers: Member(jnp.zeros([]), jnp.zeros([]), jnp.zeros([])),
        step=step,
        score=lambda member, data: member.weights,
        hypers=("rate",),
    )


HYPERS = {"rate": np.arange(4, dtype=F32)}


def advance(run):
    members = run.init(jax.random.key(0), HYPERS)
    return run.train(members, HYPERS, jax.random.key(1), np.int32(0), ())


def test_members_on_several_devices_or_in_chunks_are_the_same_bits():
    run = engine(counter(), 4, Rhythm(6, 2))
    members, scores = advance(run)
    assert scores.shape == (4, 3)
    for other in (
        engine(counter(), 4, Rhythm(6, 2), mesh=member_mesh(4, 4)),
        engine(counter(), 4, Rhythm(6, 2), mesh=member_mesh(2, 4), chunk=1),
    ):
        same, found = advance(other)
        np.testing.assert_array_equal(scores, found)
        np.testing.assert_array_equal(members.weights, same.weights)
        source = np.array([3, 1, 1, 0], np.int32)
        np.testing.assert_array_equal(other.gather(same, source).weights, np.asarray(members.weights)[source])


@pytest.mark.parametrize("part", ["weights", "opt_state", "inner"])
def test_only_the_parts_that_are_asked_for_are_copied(part):
    run = engine(counter(), 2, Rhythm(2, 2), copy=Copy(**{part: False}))
    members = Member(*(jnp.array([1.0, 2.0]) for _ in range(3)))
    after = run.gather(members, np.array([1, 1], np.int32))._asdict()
    for name, value in after.items():
        assert value.tolist() == ([1, 2] if name == part else [2, 2])


def test_a_trainer_without_inner_state_can_keep_its_inner_part():
    trainer = counter()._replace(
        init=lambda key, hypers: Member(jnp.zeros([])),
        step=lambda member, hypers, key, data: member._replace(weights=member.weights + hypers["rate"]),
    )
    run = engine(trainer, 4, Rhythm(6, 2), copy=Copy(inner=False))
    members, _ = advance(run)
    assert run.gather(members, np.array([3, 1, 1, 0], np.int32)).weights.tolist() == [18, 6, 6, 0]


def test_the_exported_schedule_is_that_of_the_weights_where_weights_are_not_copied():
    # Weights of an exact sum: each member's are the sum of the rates that its slot had.
    space = {"rate": linear(bounds=(0.0, 8.0), given=(1.0, 2.0, 3.0, 4.0), explore={"name": "factors"})}
    rhythm = Rhythm(2, 1, average=1)
    trainer = counter()._replace(
        step=lambda member, hypers, key, data: member._replace(weights=member.weights + hypers["rate"])
    )
    controller = pbt(Setting(space, rhythm), num_members=4, exploit={"name": "best"})
    run = population(trainer, controller, space, rhythm, copy=Copy(weights=False))
    stage, records = evolve(run, 6)
    assert any((record.source != np.arange(4)).any() for record in records)
    found = winner(controller, records, copied_weights=False)
    slot = found.slots[-1]
    np.testing.assert_allclose(2 * found.hypers["rate"].sum(), stage.members.weights[slot], rtol=1e-6)
    assert (found.slots == slot).all() and stage.ancestors.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"space": {"rat": linear(bounds=(0.0, 1.0))}}, "^hypers.rat: is no hyperparameter .*mean rate"),
        ({"rhythm": Rhythm(6, 2, average=4)}, "^average: must be at most the 3 evaluations of a round"),
        ({"rhythm": Rhythm(6, 4)}, r"^eval_every: must divide round_steps \(6\) \(value 4\)$"),
        ({"rhythm": Rhythm(6, 0)}, r"^eval_every: must be >= 1 \(value 0\)$"),
        (
            {"trainer": counter()._replace(step=lambda m, h, key, data: m._replace(weights=jnp.zeros([2])))},
            r"^trainer.step must keep member.weights float32\[\], got float32\[2\]$",
        ),
        (
            {"trainer": counter()._replace(step=lambda m, h, key, data: m._replace(inner=h["decay"]))},
            "^trainer needs the hyperparameter 'decay', which is not searched$",
        ),
    ],
)
def test_a_call_is_checked_as_a_config_is(changed, message):
    parts = {
        "trainer": counter(),
        "controller": random_search(Setting({}, Rhythm(6, 2)), num_members=2),
        "space": {"rate": linear(bounds=(0.0, 1.0))},
        "rhythm": Rhythm(6, 2),
    }
    with pytest.raises(ConfigError, match=message):
        population(**(parts | changed))


@pytest.mark.parametrize(
    ("decision", "message"),
    [
        ({"source": np.arange(3)}, r"^source must be i64\[2\], got int64\[3\]$"),
        ({"source": np.array([0, 2])}, r"^source must name members 0 to 1, got \[0, 2\]$"),
        ({"hypers": {"rat": np.zeros(2)}}, r"^hypers must be f64\[2\] of each of rate, got {'rat': \(2,\)}$"),
        (
            {"hypers": {"rate": np.zeros(3)}},
            r"^hypers must be f64\[2\] of each of rate, got {'rate': \(3,\)}$",
        ),
    ],
)
def test_a_controllers_decision_that_does_not_fit_is_refused(decision, message):
    space, rhythm = {"rate": linear(bounds=(0.0, 1.0))}, Rhythm(6, 2)
    right = Decision(np.arange(2), {"rate": np.zeros(2)}, [])
    controller = random_search(Setting(space, rhythm), num_members=2)
    controller = controller._replace(init=lambda rng: ({}, right._replace(**decision)))
    with pytest.raises(ValueError, match=message):
        begin(population(counter(), controller, space, rhythm))


@pytest.mark.parametrize(
    ("devices", "members", "message"),
    [
        (3, 4, "^mesh.members must divide the 4 members, got 3$"),
        (99, 99, "^mesh.members must be between 1 and 4, the devices there are, got 99$"),
    ],
)
def test_a_mesh_that_does_not_fit_is_refused(devices, members, message):
    with pytest.raises(ValueError, match=message):
        member_mesh(devices, members)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"init": lambda key, hypers: jnp.zeros([])}, "^trainer.init must return a Member, got a ShapeDtype"),
        (
            {"step": lambda m, h, key, data: m._replace(weights=jnp.zeros([2]))},
            r"^trainer.step must keep member.weights float32\[\], got float32\[2\]$",
        ),
        ({"step": lambda m, h, key, data: m._replace(inner=())}, "^trainer.step must return a Member like"),
        (
            {"score": lambda m, data: jnp.zeros([3])},
            r"^trainer.score must return one float, got float32\[3\]$",
        ),
        (
            {"step": lambda m, h, key, data: m if h["rate"] > 0 else m},
            r"^trainer needs the value of a hyperparameter while it is compiled \(rate\)",
        ),
    ],
)
def test_a_trainer_that_breaks_its_contract_is_refused_before_it_compiles(changed, message):
    space = {"rate": linear(bounds=(0.0, 1.0))}
    check_trainer(counter(), space)
    with pytest.raises(ValueError, match=message):
        check_trainer(counter()._replace(**changed), space)
