"""The optimizers of optax under the interface of the learned ones."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train.evaluation.baselines import BASELINES, SCHEDULES, build, relative_rate, theta


def rates(schedule, num_steps=100):
    index = SCHEDULES.index(schedule)
    return jax.vmap(lambda t: relative_rate(index, t, num_steps))(jnp.arange(num_steps + 1))


def test_schedules_are_optaxs():
    t = np.arange(101)
    np.testing.assert_allclose(rates("constant"), np.ones(101))
    np.testing.assert_allclose(rates("cosine"), optax.cosine_decay_schedule(1.0, 100)(t), atol=1e-6)
    # Ours is one step up at the first update (a rate of zero would waste it), optax's at zero.
    warmup = optax.linear_schedule(0.0, 1.0, 5)
    np.testing.assert_allclose(rates("warmup"), warmup(t + 1), rtol=1e-6)
    both = optax.warmup_cosine_decay_schedule(0.0, 1.0, 5, 101)
    np.testing.assert_allclose(rates("warmup_cosine"), both(t + 1), atol=1e-6)


def test_a_short_training_has_a_warmup_of_one_step():
    np.testing.assert_allclose(rates("warmup", 3), np.ones(4))
    assert np.isfinite(rates("warmup_cosine", 1)).all()


@pytest.mark.parametrize("name", BASELINES)
def test_one_program_runs_all_rates_and_schedules_and_gets_down_a_valley(name):
    """A least-squares problem with a matrix and a vector of the size of a small network's weights."""
    baseline = BASELINES[name]
    x = jax.random.normal(jax.random.key(0), (32, 4))
    target = {"w": 0.3 * jnp.eye(4, 3), "b": jnp.array([0.1, -0.2, 0.05])}
    predict = lambda p: x @ p["w"] + p["b"]  # noqa: E731
    loss = lambda p: jnp.mean(jnp.sum(jnp.square(predict(p) - predict(target)), 1))  # noqa: E731
    start = {"w": jnp.full((4, 3), 0.1), "b": jnp.full(3, 0.1)}

    def run(theta, num_steps):
        opt = optax.with_extra_args_support(build(baseline)(theta, num_steps))

        def step(carry, _):
            params, state = carry
            value, grads = jax.value_and_grad(loss)(params)
            updates, state = opt.update(grads, state, params, value=value)
            return (optax.apply_updates(params, updates), state), None

        (params, state), _ = jax.lax.scan(step, (start, opt.init(start)), length=100)
        return loss(baseline.eval_params(params, state))

    run = jax.jit(jax.vmap(run, (0, None)), compiler_options={"xla_backend_optimization_level": 0})
    thetas = [theta(baseline.learning_rates, schedule) for schedule in baseline.schedules]
    thetas = jax.tree.map(lambda *x: np.concatenate(x), *thetas)
    final = np.nan_to_num(run(thetas, jnp.int32(100)), nan=np.inf).reshape(len(baseline.schedules), -1)
    if len(baseline.learning_rates) == 1:  # it finds its rate itself
        assert (final < 0.5 * loss(start)).any(), final
        return
    slow = 0.03 if baseline.horizon else 0.01  # AdEMAMix oscillates at first
    assert (final[:, 1:-1].min(1) < slow * loss(start)).all(), final  # inside the grid
    assert (final[:, 0] > 0.5 * loss(start)).all(), final  # which begins with rates that are too small
    assert len(np.unique(final)) > final.size // 2  # the arrays of theta matter


def test_the_grids_are_twelve_ascending_rates_and_three_weight_decays():
    for name, baseline in BASELINES.items():
        assert len(baseline.learning_rates) == (1 if name in ("prodigy", "dowg") else 12)
        assert len(baseline.hyper.get("weight_decay", (0, 0, 0))) == 3
        assert list(baseline.learning_rates) == sorted(set(baseline.learning_rates))
        assert set(baseline.schedules) <= set(SCHEDULES)


def test_an_unknown_schedule_is_refused():
    with pytest.raises(ValueError, match="schedule must be one of constant, cosine.* got linear"):
        theta((0.1,), "linear")
