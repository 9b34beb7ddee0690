"""Task family + learned optimizer -> unrolled system, against a plain loop."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import LEARNED_OPTIMIZERS
from learned_opt.base import LearnedOptimizer
from meta_train.core.system import start, unroll
from meta_train.inner import Objective, inner_training, log_uniform
from tasks import augment
from tasks.base import Task, TaskFamily


def lines():
    """Fits y = slope x by minibatches of 4; the slope is the task, the splits differ."""

    def task(slope):
        def loss(params, key, data):
            x = data[jax.random.randint(key, (4,), 0, len(data))]
            return jnp.square((params["w"] - slope) * x).mean()

        return Task(lambda key: {"w": jax.random.normal(key)}, loss)

    rng = np.random.default_rng(0)
    data = {
        "train": jnp.asarray(rng.normal(size=20), jnp.float32),
        "valid": jnp.asarray(rng.normal(size=10) + 1, jnp.float32),
    }
    return TaskFamily(lambda key: jax.random.normal(key), task, data)


def momentum():
    """SGD with momentum; theta is the logarithm of the learning rate, which decays over T steps."""

    def build(theta, num_steps):
        schedule = lambda count: jnp.exp(theta["log_lr"]) * (1 - count / num_steps)  # noqa: E731
        return optax.with_extra_args_support(
            optax.chain(optax.trace(0.9), optax.scale_by_learning_rate(schedule))
        )

    return LearnedOptimizer(lambda key: {"log_lr": jnp.float32(-2.0)}, build, ("num_steps",))


THETA = {"log_lr": jnp.float32(-2.0)}
PLAIN = Objective(log=False, cap=1e3)


def plain_loop(key_start, key_unroll, steps, valid):
    """Losses of an inner training, written out with optax."""
    family, lopt = lines(), momentum()
    key_state, _ = jax.random.split(key_start)  # the other draws the staggered length
    key_cfg, key_params, _ = jax.random.split(key_state, 3)
    task = family.task(family.sample(key_cfg))
    params, opt, losses = task.init(key_params), lopt.build(THETA, steps), []
    state = opt.init(params)
    for key in jax.random.split(key_unroll, steps):
        key_train, key_valid = jax.random.split(key)
        loss, grads = jax.value_and_grad(task.loss)(params, key_train, family.data["train"])
        updates, state = opt.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        losses.append(task.loss(params, key_valid, family.data["valid"]) if valid else loss)
    return np.asarray(losses), params


@pytest.mark.parametrize("split", ["train", "valid"])
@pytest.mark.parametrize("reduce", ["mean", "last"])
def test_a_window_is_the_plain_training_loop(split, reduce):
    family = lines()
    system = inner_training(
        family, momentum(), unroll_length=4, objective=PLAIN._replace(loss=split, reduce=reduce)
    )
    rollout = start(system, THETA, jax.random.key(0))
    end, losses = jax.jit(lambda r, k: unroll(system, THETA, r, k, family.data, 4))(
        rollout, jax.random.key(1)
    )
    expected, params = plain_loop(jax.random.key(0), jax.random.key(1), 4, split == "valid")
    if reduce == "last":
        expected = np.array([0, 0, 0, 4 * expected[-1]])
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    np.testing.assert_allclose(end.state.params["w"], params["w"], rtol=1e-5)
    assert int(end.state.t) == int(end.t) == int(end.length) == 4


def test_the_log_objective_is_of_the_capped_loss_and_its_ceiling_is_that_of_the_system():
    family = lines()
    rollouts = {}
    for objective in (PLAIN, Objective(cap=0.5, offset=0.02)):
        system = inner_training(family, momentum(), unroll_length=4, objective=objective)
        rollout = start(system, THETA, jax.random.key(0))
        _, rollouts[objective] = unroll(system, THETA, rollout, jax.random.key(1), family.data, 4)
    plain, logs = rollouts.values()
    np.testing.assert_allclose(logs, np.log(np.minimum(plain, 0.5) + 0.02), rtol=1e-5)
    assert system.worst_loss == pytest.approx(np.log(0.52))


def test_the_steps_of_an_inner_problem_have_a_factor_of_its_own_within_the_bounds():
    family = lines()
    system = inner_training(family, momentum(), unroll_length=4, objective=PLAIN, learning_rate=(0.25, 4.0))
    plain = inner_training(family, momentum(), unroll_length=4, objective=PLAIN)
    keys = jax.random.split(jax.random.key(0), 200)
    states = jax.vmap(lambda key: system.init(THETA, key)[0])(keys)
    assert 0.25 <= states.rate.min() < 0.3 and 3.5 < states.rate.max() <= 4
    np.testing.assert_allclose(jnp.log(states.rate).mean(), 0, atol=0.25)  # 4 standard errors
    one = jax.tree.map(lambda x: x[0], states)
    without, _ = plain.init(THETA, keys[0])
    stepped, _ = system.step(THETA, one, keys[1], family.data)
    expected, _ = plain.step(THETA, without, keys[1], family.data)
    step = expected.params["w"] - without.params["w"]
    np.testing.assert_allclose(stepped.params["w"] - one.params["w"], one.rate * step, rtol=1e-4)
    assert stepped.rate == one.rate and expected.rate is None


def test_late_losses_can_weigh_more_and_the_weights_average_to_one():
    family, plain = lines(), {}
    for late in (0.0, 2.0):
        system = inner_training(family, momentum(), unroll_length=4, objective=PLAIN._replace(late=late))
        rollout = start(system, THETA, jax.random.key(0))
        _, plain[late] = unroll(system, THETA, rollout, jax.random.key(1), family.data, 4)
        assert system.worst_loss == 1e3 * (1 + late)
    weights = 3 * (np.arange(1, 5) / 4) ** 2
    np.testing.assert_allclose(plain[2.0], weights * plain[0.0], rtol=1e-5)
    assert np.mean(3 * (np.arange(1, 1001) / 1000) ** 2) == pytest.approx(1, abs=0.01)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_training_that_is_not_finite_counts_the_cap_and_is_marked(value):
    task = Task(lambda key: jnp.float32(1.0), lambda params, key, data: params * value)
    family = TaskFamily(lambda key: (), lambda cfg: task, {"train": (), "valid": ()})
    system = inner_training(family, momentum(), unroll_length=2)
    end, losses = unroll(
        system, THETA, start(system, THETA, jax.random.key(0)), jax.random.key(1), family.data, 2
    )
    np.testing.assert_allclose(losses, np.log(4.02), rtol=1e-6)
    assert bool(end.diverged)


def test_the_optimizer_knows_its_horizon_also_when_the_first_length_is_short():
    system = inner_training(lines(), momentum(), unroll_length=100, multiple=10)
    rollout = jax.vmap(lambda k: start(system, THETA, k, stagger=10))(jax.random.split(jax.random.key(0), 20))
    assert int(rollout.length.min()) < 100 and (rollout.state.length == 100).all()


def test_random_lengths_are_log_uniform_among_the_multiples():
    # 20 000 draws: the counts of [10, 32) and [32, 100] are 10 000 +- 71 (std) if log-uniform, up to the
    # rounding to multiples; 4 % of slack covers both (false alarm < 1e-6).
    keys = jax.random.split(jax.random.key(0), 20_000)
    lengths = np.asarray(jax.vmap(lambda k: log_uniform(k, 7, 105, 10))(keys))
    assert set(lengths) == set(range(10, 101, 10))
    expected = np.log((np.arange(1, 11) + 1) / np.arange(1, 11)) / np.log(11)
    np.testing.assert_allclose(np.bincount(lengths // 10)[1:] / 20_000, expected, atol=0.014)


@pytest.mark.parametrize(
    "length, multiple, facts",
    [(20, 5, (20, 20)), ((10, 40), 10, (10, 40)), ((12, 29), 10, (20, 20)), ((20, 20), 5, (20, 20))],
)
def test_the_system_says_what_lengths_it_has(length, multiple, facts):
    system = inner_training(lines(), momentum(), unroll_length=length, multiple=multiple)
    assert (system.length_multiple, system.max_length) == facts


@pytest.mark.parametrize(
    "length, multiple", [(25, 10), (0, 1), (-10, 5), ((11, 19), 10), ((40, 20), 10), ((0, 20), 10)]
)
def test_lengths_that_cannot_be_are_refused_by_name(length, multiple):
    with pytest.raises(ValueError, match="^unroll_length must be") as error:
        inner_training(lines(), momentum(), unroll_length=length, multiple=multiple)
    assert "\n" not in str(error.value)


def test_theta_moves_the_loss_only_through_the_updates():
    family = lines()
    system = inner_training(family, momentum(), unroll_length=3, objective=PLAIN)
    rollout = start(system, THETA, jax.random.key(0))
    slopes = jax.jacobian(lambda th: unroll(system, th, rollout, jax.random.key(1), family.data, 3)[1])(THETA)
    assert float(slopes["log_lr"][0]) == 0.0 and (np.abs(slopes["log_lr"][1:]) > 0).all()


def test_delayed_gradients_are_those_of_the_steps_before():
    # loss = params^2 / 2 with plain SGD of rate 0.1: p <- p - 0.1 p(t - d), the first gradient until then.
    task = Task(lambda key: jnp.float32(1.0), lambda params, key, data: params**2 / 2)
    plain = TaskFamily(lambda key: (), lambda cfg: task, {"train": (), "valid": ()})
    sgd = LEARNED_OPTIMIZERS["learnable_sgd"](initial_lr=0.1)
    theta = sgd.init(jax.random.key(0))
    for delay in (1, 3):
        family = augment(plain, [{"name": "delayed_gradient", "least": delay, "most": delay}])
        system = inner_training(family, sgd, unroll_length=12, objective=PLAIN)
        rollout = start(system, theta, jax.random.key(0))
        _, losses = unroll(system, theta, rollout, jax.random.key(1), family.data, 12)
        p = [1.0]
        for t in range(11):
            p.append(p[-1] - 0.1 * p[max(t - delay, 0)])
        np.testing.assert_allclose(losses, np.square(p) / 2, rtol=1e-5)
    family = augment(plain, [{"name": "delayed_gradient"}])
    system = inner_training(family, sgd, unroll_length=12)
    drawn = jax.vmap(lambda key: start(system, theta, key).state.late.delay)(
        jax.random.split(jax.random.key(0), 99)
    )
    assert set(np.asarray(drawn).tolist()) == set(range(1, 9))
    with pytest.raises(ValueError, match="^most must be at least least .* got 2$"):
        augment(plain, [{"name": "delayed_gradient", "least": 3, "most": 2}])
