"""Meta-testing on problems whose answers are known; all keys are fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from meta_train import baselines, curves
from meta_train.baselines import Settings, adam, final_loss, smooth, tuned_adam
from meta_train.curves import seed_keys, trainer
from meta_train.evaluate import evaluate, loss_ratio
from meta_train.held_out import make_held_out
from tasks.base import Task, TaskFamily, fixed

SETTINGS = Settings(
    horizons=(20, 40),
    num_seeds=3,
    num_tuning_seeds=2,
    learning_rates=(0.001, 0.01, 0.1, 0.3, 1.0),
    archive_steps=100,
    smoothing=0.8,
    final_steps=5,
    num_valid_batches=2,
)


def quadratic(shift=0.0):
    """Tasks told apart by their minimum; minibatches by rows of the data."""

    def task(cfg):
        def loss(params, key, data):
            rows = data[jax.random.randint(key, (4,), 0, len(data))]
            return 0.5 * jnp.mean((params["x"] - cfg - rows) ** 2)

        return Task(lambda key: {"x": 3 * jax.random.normal(key, (3,))}, loss)

    rows = jax.random.normal(jax.random.key(1), (50, 3)) * 0.1 + shift
    return TaskFamily(
        lambda key: jax.random.normal(key, (3,)), task, {"train": rows[:40], "valid": rows[40:]}
    )


def cliff():
    """|x| from x = 50: Adam's steps are exactly the learning rate, so every speed is known."""
    return fixed(Task(lambda key: jnp.full((), 50.0), lambda params, key, data: jnp.abs(params)))


def adam_of(theta, num_steps):
    del num_steps
    return optax.adam(theta)


@pytest.fixture(scope="module")
def family():
    return quadratic()


@pytest.fixture(scope="module")
def adam_trainer(family):
    return trainer(family, adam, 100, num_valid_batches=2, rows_at_once=2)


@pytest.fixture(scope="module")
def reference(family):
    return tuned_adam(family, SETTINGS)


def grid(cosine=False, rates=SETTINGS.learning_rates):
    rates = np.asarray(rates, np.float32)
    return {"learning_rate": rates, "cosine": np.full(rates.shape, cosine)}


def by_hand(family, optimizer, key, num_steps):
    """A plain optax loop: the losses and the validation loss at the end."""
    key_cfg, key_init, key_steps, key_valid = jax.random.split(key, 4)
    task = family.task(family.sample(key_cfg))
    params = task.init(key_init)
    state = optimizer.init(params)
    losses = []

    @jax.jit
    def step(params, state, key):
        loss, grads = jax.value_and_grad(task.loss)(params, key, family.data["train"])
        updates, state = optimizer.update(grads, state, params)
        return optax.apply_updates(params, updates), state, loss

    for t in range(num_steps):
        params, state, loss = step(params, state, jax.random.fold_in(key_steps, t))
        losses.append(float(loss))
    valid = [task.loss(params, k, family.data["valid"]) for k in jax.random.split(key_valid, 2)]
    return losses, np.mean(valid)


@pytest.mark.parametrize("cosine", [False, True])
def test_a_curve_is_that_of_a_plain_optax_loop(family, adam_trainer, cosine):
    keys = seed_keys("evaluation", 3)
    found = curves.curves(adam_trainer, grid(cosine), keys, 30)
    rate = optax.cosine_decay_schedule(0.1, 30) if cosine else 0.1
    losses, valid = by_hand(family, optax.adam(rate), keys[1], 30)
    np.testing.assert_allclose(found.train[2, 1], losses, rtol=1e-5)
    np.testing.assert_allclose(found.valid[2, 1, 0], valid, rtol=1e-5)


def test_a_seed_means_the_same_whatever_the_horizon_the_number_of_seeds_and_the_chunks(
    adam_trainer, monkeypatch
):
    long = curves.curves(adam_trainer, grid(), seed_keys("tuning", 4), 50, (10, 50))
    monkeypatch.setattr(curves, "PARALLEL_BYTES", 1)
    short = curves.curves(adam_trainer, grid(), seed_keys("tuning", 2), 10)
    np.testing.assert_allclose(short.train, long.train[:, :2, :10], rtol=1e-6)
    np.testing.assert_allclose(short.valid[..., 0], long.valid[:, :2, 0], rtol=1e-6)


def test_validation_losses_are_nan_without_a_validation_split(family):
    only_train = family._replace(data={"train": family.data["train"]})
    found = curves.curves(trainer(only_train, adam, 3), grid(rates=(0.1,)), seed_keys("tuning", 1), 3)
    assert np.isnan(found.valid).all() and np.isfinite(found.train).all()


def test_a_run_that_diverged_is_worse_than_any_other_from_then_on(family):
    train = trainer(family, adam_of, 30)
    found = curves.curves(train, np.array([1e-2, np.inf], np.float32), seed_keys("tuning", 1), 30)
    assert np.isfinite(found.train[0]).all() and np.isfinite(found.valid[0]).all()
    assert np.isfinite(found.train[1, 0, 0]) and np.isposinf(found.train[1, 0, 1:]).all()
    assert np.isposinf(found.valid[1]).all()


def test_stops_beyond_the_horizon_are_refused(adam_trainer):
    with pytest.raises(ValueError, match=r"stops must ascend to num_steps <= 100, got \(5, 3\)"):
        curves.curves(adam_trainer, grid(), seed_keys("tuning", 1), 3, (5, 3))


def test_no_stream_shares_a_key_with_another():
    keys = np.concatenate([jax.random.key_data(seed_keys(s, 50)) for s in curves.STREAMS])
    assert len(np.unique(keys, axis=0)) == 150
    assert not np.array_equal(
        jax.random.key_data(seed_keys("tuning", 1)), jax.random.key_data(seed_keys("tuning", 1, 7))
    )


def test_rates_are_chosen_on_the_tuning_seeds_and_measured_on_the_evaluation_seeds(adam_trainer, reference):
    for k, cosine in enumerate((False, True)):
        for m, horizon in enumerate(SETTINGS.horizons):
            tuning = curves.curves(adam_trainer, grid(cosine), seed_keys("tuning", 2), horizon)
            tuned = final_loss(tuning.train, SETTINGS.final_steps).mean(1)
            np.testing.assert_allclose(reference.tuning[k, m], tuned, rtol=1e-5)
            assert reference.chosen[k, m] == tuned.argmin()
            best = grid(cosine, SETTINGS.learning_rates[tuned.argmin() :][:1])
            measured = curves.curves(adam_trainer, best, seed_keys("evaluation", 3), horizon)
            np.testing.assert_allclose(reference.train[k, m, :, :horizon], measured.train[0], rtol=1e-5)
            np.testing.assert_allclose(reference.valid[k, m], measured.valid[0, :, 0], rtol=1e-5)
            assert np.isnan(reference.train[k, m, :, horizon:]).all()


def test_the_archive_takes_the_best_rate_of_each_step_from_the_tuning_seeds(adam_trainer, reference):
    tuning, measured = (
        smooth(curves.curves(adam_trainer, grid(), seed_keys(stream, n), 100).train, 0.8)
        for stream, n in (("tuning", 2), ("evaluation", 3))
    )
    rows = tuning.mean(1).argmin(0)
    assert len(set(rows.tolist())) > 2  # or the test would not tell one rate from another
    expected = np.array([measured[row, :, t] for t, row in enumerate(rows)]).T
    np.testing.assert_allclose(reference.envelope, expected, rtol=1e-5)


def test_smoothing_is_a_moving_average_from_the_first_value_on():
    np.testing.assert_allclose(smooth(np.array([[4.0, 0.0, 8.0]]), 0.5), [[4.0, 2.0, 5.0]])
    np.testing.assert_array_equal(smooth(np.array([1.0, np.inf, 1.0]), 0.5), [1.0, np.inf, np.inf])


def test_adam_with_the_best_rate_scores_one(family, reference):
    rate = SETTINGS.learning_rates[reference.chosen[0, 1]]
    result = evaluate(adam_of, np.float32(rate), {"quadratic": family}, SETTINGS)
    cell = result.cells[1]
    assert cell.horizon == 40 and cell.learning_rate["adam"] == rate
    np.testing.assert_allclose(cell.ratio, 1, rtol=1e-4)
    # The archive is tuned for each step and takes the running minimum: at most one step more, some fewer.
    assert 0.7 <= cell.speed_up <= 1 + 1 / 40 + 1e-9
    np.testing.assert_allclose(cell.valid["learned"], cell.valid["adam"], rtol=1e-4)


ONE_RATE = {"learning_rates": (0.1,), "archive_steps": 100, "num_seeds": 2, "num_tuning_seeds": 1}


@pytest.fixture(scope="module")
def cliff_results():
    """Adam at 0.2 where the baseline has 0.1: speed-ups with and without smoothing."""
    settings = [
        Settings(horizons=(40,), smoothing=smoothing, final_steps=1, **ONE_RATE) for smoothing in (0.0, 0.9)
    ]
    return [evaluate(adam_of, np.float32(0.2), {"cliff": cliff()}, s) for s in settings]


def test_twice_the_step_on_a_slope_is_a_speed_up_of_two(cliff_results):
    raw, smoothed = (result.cells[0] for result in cliff_results)
    # At its last step the fast run has lost 39 * 0.2; the baseline has at step 79, counted from 1.
    assert raw.speed_up == pytest.approx(79 / 40, abs=1.01 / 40) and not raw.censored
    # A moving average of a slope lags, at decay 0.9 by 9 steps (fewer at the start) on either side.
    assert smoothed.speed_up == pytest.approx((2 * 40 - 9) / 40, abs=3 / 40)
    np.testing.assert_allclose(raw.ratio, (50 - 39 * 0.2) / (50 - 39 * 0.1), rtol=1e-5)


def test_without_any_spread_the_interval_is_the_point(cliff_results):
    for score in (cliff_results[0].speed_up, cliff_results[0].ratio):
        np.testing.assert_allclose([score.low, score.high, score.worst], score.mean, rtol=1e-6)


def test_one_cell_at_the_edge_of_the_grid_says_so(cliff_results):
    assert cliff_results[0].cells[0].at_grid_edge == {"adam": True, "adam_cosine": True}


def test_a_loss_below_all_of_the_archive_gives_a_lower_bound():
    settings = Settings(horizons=(40,), smoothing=0.5, final_steps=1, **ONE_RATE)
    cell = evaluate(adam_of, np.float32(0.9), {"cliff": cliff()}, settings).cells[0]
    assert cell.censored and cell.speed_up == 100 / 40


def test_an_optimizer_that_diverges_is_counted_and_gets_the_lowest_score(family):
    done = []

    def build(theta, num_steps):  # diverges where the horizon is long
        return optax.adam(jnp.where(num_steps > 20, jnp.inf, theta))

    def progress(*args):
        done.append(args)

    result = evaluate(
        build, np.float32(0.3), {"quadratic": family, "other": quadratic(1.0)}, SETTINGS, progress=progress
    )
    short, long = result.cells[:2]
    assert long.speed_up == 0.05 and long.ratio == 1000 and long.diverged == 3 and not long.censored
    assert np.isposinf(long.final["learned"]).all()
    assert short.diverged == 0 and short.speed_up > 0.05
    assert result.divergence_rate == 0.5 and result.speed_up.worst == 0.05 and result.ratio.worst == 1000
    assert [cell.family for cell in result.cells] == ["quadratic", "quadratic", "other", "other"]
    assert result.speed_up.low <= result.speed_up.mean <= result.speed_up.high
    mean = np.exp(np.mean(np.log([cell.speed_up for cell in result.cells])))
    np.testing.assert_allclose(result.speed_up.mean, mean)
    counts = [d for d, _, _ in done]
    assert counts == sorted(counts) and done[-1][0] == done[-1][1] and "other" in done[-1][2]


def test_a_cache_hit_gives_the_same_numbers_and_a_damaged_entry_is_recomputed(
    family, reference, tmp_path, monkeypatch
):
    runs = []

    def counted(*args):  # the training itself is tested above
        runs.append(1)
        return reference

    monkeypatch.setattr(baselines, "_tune", counted)
    steps = []
    first = tuned_adam(family, SETTINGS, tmp_path / "cache", steps.append)
    second = tuned_adam(family, SETTINGS, tmp_path / "cache", steps.append)
    assert len(runs) == 1 and steps == [baselines.reference_steps(SETTINGS)]
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)
        assert a.dtype == b.dtype
    (entry,) = (tmp_path / "cache").iterdir()
    whole = entry.read_bytes()
    damages = [whole[:-1], whole[: len(whole) // 2], b"", b"not an archive"]
    damages += [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in range(40, len(whole), 997)]
    for damaged in damages:
        entry.write_bytes(damaged)
        read = tuned_adam(family, SETTINGS, tmp_path / "cache")
        for a, b in zip(first, read, strict=True):
            np.testing.assert_array_equal(a, b)
    assert len(runs) > len(damages) // 2  # a flipped bit that zip does not use changes nothing
    assert [file.name for file in (tmp_path / "cache").iterdir()] == [entry.name]


def test_another_task_other_data_or_other_settings_are_another_entry(family):
    def digest(family, settings):
        return baselines._digest(trainer(family, adam, settings.archive_steps), settings)

    same = digest(quadratic(), SETTINGS)
    assert same == digest(family, SETTINGS)
    other_loss = family._replace(
        task=lambda cfg: family.task(cfg)._replace(loss=lambda p, k, d: jnp.sum(p["x"] ** 4))
    )
    digests = {
        same,
        digest(quadratic(0.1), SETTINGS),
        digest(other_loss, SETTINGS),
        digest(family, Settings()),
    }
    assert len(digests) == 4


def test_a_cache_that_cannot_be_written_only_warns(family, reference, tmp_path, monkeypatch):
    monkeypatch.setattr(baselines, "_tune", lambda *args: reference)
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.warns(UserWarning, match="cannot keep the tuned baseline"):
        found = tuned_adam(family, SETTINGS, tmp_path / "cache")
    np.testing.assert_array_equal(found.chosen, reference.chosen)


def test_ratios_of_zero_negative_and_infinite_losses_are_defined():
    np.testing.assert_allclose(
        loss_ratio([1, 0, 5, np.inf, np.inf], [2, 0, np.inf, 1, np.inf]), [0.5, 1, 1e-3, 1e3, 1e3]
    )
    assert np.isnan(loss_ratio([-1.0, 1.0], [1.0, -1.0])).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"horizons": (100, 50)}, r"horizons must be positive, ascending and distinct, got \(100, 50\)"),
        ({"horizons": (10,)}, r"horizons must be >= final_steps \(20\), got 10"),
        ({"archive_steps": 300}, r"archive_steps must be >= every horizon \(500\), got 300"),
        ({"learning_rates": (0.0, 0.1)}, "learning_rates must be positive, ascending and distinct, got"),
        ({"num_seeds": 0}, "num_seeds must be >= 1, got 0"),
        ({"smoothing": 1.0}, r"smoothing must be in \[0, 1\), got 1.0"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(options, message):
    with pytest.raises(ValueError, match=f"^{message}"):
        Settings(**options)


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
    found = curves.curves(train, np.array([0.3], np.float32), seed_keys("selection", 2), 20)
    np.testing.assert_allclose(score(jnp.float32(0.3))["quadratic/20"], final_loss(found.train, 5).mean())
    with pytest.raises(ValueError, match=r"^horizons must be >= final_steps \(5\), got \(3,\)"):
        make_held_out(adam_of, {"quadratic": family}, horizons=(3,), final_steps=5)
