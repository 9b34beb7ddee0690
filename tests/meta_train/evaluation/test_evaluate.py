"""Whole evaluations of problems whose answers are known; all keys are fixed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import LearnedOptimizer
from meta_train.errors import RunError
from meta_train.evaluation import cache as cache_lib
from meta_train.evaluation import measure as measure_lib
from meta_train.evaluation.curves import final_loss
from meta_train.evaluation.evaluate import evaluate
from meta_train.evaluation.measure import measure
from meta_train.evaluation.optimizers import hand_designed, learned
from meta_train.evaluation.protocol import Settings
from meta_train.evaluation.results import HeldOut
from tasks.base import Task, TaskFamily, fixed

SETTINGS = Settings(
    horizons=(20, 40),
    num_seeds=2,
    num_tuning_seeds=1,
    rivals=("adam", "adam_cosine", "sgdm"),
    trials=3,
    archive_steps=160,
    smoothing=0.0,
    final_steps=1,
    num_valid_batches=1,
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
    """|x| from x = 500: Adam's steps are exactly the learning rate, so every speed is known."""
    return fixed(Task(lambda key: jnp.full((), 500.0), lambda params, key, data: jnp.abs(params)))


def growing_adam(theta, num_steps):
    """Adam whose rate grows with the horizon that it is told, 2 for 40 steps; diverges where theta is 0."""
    return optax.adam(jnp.where((theta == 0) & (num_steps > 20), jnp.inf, num_steps / 20))


GROWING = LearnedOptimizer(lambda key: jnp.ones([]), growing_adam, ("num_steps",))
TASKS = {"cliff": HeldOut(cliff(), "A"), "quadratic": HeldOut(quadratic(), "B")}


@pytest.fixture(scope="module")
def told():
    return []


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def result(told, cache):
    subject = learned("growing", GROWING, jnp.float32(1), SETTINGS.trials)
    return evaluate(subject, TASKS, SETTINGS, cache=cache, progress=lambda *args: told.append(args))


def test_twice_the_step_on_a_slope_is_a_speed_up_of_two(result):
    short, long = (cell.outcomes["per_task_tuned"] for cell in result.cells[:2])
    # The fastest Adam has a rate of 1. After 39 steps of 2, the loss is 422: Adam has it at its 79th.
    assert short.speed_up == 1 and not short.censored
    assert long.speed_up == 79 / 40 and not long.censored
    np.testing.assert_allclose(long.loss_ratio["adam"], (500 - 78) / (500 - 39), rtol=1e-6)
    assert long.rival_setting["adam"] == 1.0 and long.setting == 1.0
    assert result.cells[1].at_grid_edge["adam"]


def test_at_equal_budget_the_step_is_tuned_as_well(result):
    long = result.cells[1].outcomes["equal_budget"]
    assert long.setting == 2.0  # of 1/2, 1, 2
    assert long.speed_up == 157 / 40
    assert result.cells[0].outcomes["equal_budget"].speed_up == 39 / 20
    assert {cell.outcomes["per_task_tuned"].setting for cell in result.cells} == {1.0}


def test_the_single_setting_is_one_for_all_tasks_and_horizons(result):
    rates = {cell.outcomes["single_setting"].rival_setting["adam"] for cell in result.cells}
    assert rates == {result.single_setting["adam"]}
    tuned = {cell.outcomes["per_task_tuned"].rival_setting["adam"] for cell in result.cells}
    assert len(tuned) > 1


def test_being_told_a_wrong_horizon_is_measured(result):
    np.testing.assert_allclose(
        list(result.cells[1].wrong_horizon.values()), [(500 - 39) / 422, (500 - 39 * 4) / 422], rtol=1e-5
    )
    assert set(result.wrong_horizon) == {0.5, 2.0}


def test_scores_are_of_all_cells_of_each_ring_and_of_each_horizon(result):
    assert set(result.scores) == {"all", "ring A", "ring B", "20 steps", "40 steps"}
    ring = result.scores["ring A"]["per_task_tuned"]["speed_up"]
    np.testing.assert_allclose(ring.geometric_mean, np.sqrt(79 / 40), rtol=1e-6)  # no spread: one task
    every = result.scores["all"]["per_task_tuned"]["speed_up"]
    ups = [cell.outcomes["per_task_tuned"].speed_up for cell in result.cells]
    np.testing.assert_allclose(every.geometric_mean.value, np.exp(np.mean(np.log(ups))))
    assert every.worst == min(ups) and every.cells == 4
    assert result.divergence_rate == 0


def test_a_task_without_a_validation_split_has_no_validation_ratio(result):
    assert np.isnan(result.cells[0].outcomes["per_task_tuned"].valid_ratio["adam"]) == (
        "valid" not in TASKS["cliff"].family.data
    )
    assert result.cells[2].outcomes["per_task_tuned"].valid_ratio["adam"] > 0


def test_time_and_state_are_measured(result):
    assert all(0 < ms < 1000 for task in result.ms_per_step.values() for ms in task.values())
    size = result.state_bytes_per_parameter
    # Adam: two moments of 4 bytes and a few counters, here over 1 and 3 parameters; SGD with momentum one.
    assert size["adam"] > 8 and 4 <= size["sgdm"] < size["adam"]


def test_progress_ascends_to_the_total(told, result):
    del result
    done = [d for d, _, _ in told]
    assert done == sorted(done) and told[-1][0] == told[-1][1]
    rows = {"adam": 12 * 160, "adam_cosine": 12 * 60, "sgdm": 12 * 40, "learned": 5 * 60}
    assert told[-1][1] == 2 * 3 * sum(rows.values())


def test_what_is_cached_is_not_run_again_and_a_damaged_entry_is(result, cache, monkeypatch):
    ran = []
    run = measure_lib._run

    def counted(job, *args):
        ran.extend((label, c.name) for label in job.labels for c in job.contestants)
        return run(job, *args)

    monkeypatch.setattr(measure_lib, "_run", counted)
    families = {label: task.family for label, task in TASKS.items()}
    rivals = [hand_designed(name) for name in SETTINGS.rivals]
    found = measure(families, rivals, SETTINGS, cache=cache)
    assert not ran
    adam = found.grids["adam"]["quadratic"].train(1, 40)[:, 1:]
    best = result.cells[3].outcomes["per_task_tuned"].rival_setting["adam"]
    np.testing.assert_array_equal(
        final_loss(adam[rivals[0].values.index(best)], 1), result.cells[3].loss["adam"]
    )
    entries = sorted(cache.iterdir())
    assert len(entries) == 6
    damaged = next(path for path in entries if path.name.startswith("sgdm"))
    whole = damaged.read_bytes()
    for damage in (whole[:-1], b"", b"not an archive", whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]):
        damaged.write_bytes(damage)
        assert cache_lib.load(damaged) is None
    measure(families, rivals, SETTINGS, cache=cache)
    assert len(ran) == 1 and ran[0][1] == "sgdm"
    assert cache_lib.load(damaged) is not None and sorted(cache.iterdir()) == entries


def test_a_cache_that_cannot_be_written_only_warns(tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    with pytest.warns(UserWarning, match="cannot keep the tuned baseline"):
        cache_lib.store(tmp_path / "cache" / "entry.npz", {"x": np.zeros(3)})


def test_another_task_other_data_or_other_settings_are_another_entry():
    family, code = quadratic(), cache_lib.code_version()
    other_loss = family._replace(
        task=lambda cfg: family.task(cfg)._replace(loss=lambda p, k, d: jnp.sum(p["x"] ** 4))
    )
    adam = hand_designed("adam")
    described = [cache_lib.digests(f) for f in (family, quadratic(), quadratic(0.1), other_loss)]
    assert described[0] == described[1]
    assert described[0].program == described[2].program != described[3].program
    names = [measure_lib._entry(adam, d, SETTINGS, code) for d in described]
    names += [
        measure_lib._entry(adam, described[0], Settings(), code),
        measure_lib._entry(hand_designed("adam", 0.02), described[0], SETTINGS, code),
        measure_lib._entry(adam, described[0], SETTINGS, code + "x"),
    ]
    assert len(set(names)) == 6 and names[0] == names[1]


def test_families_of_one_shape_are_one_job():
    adam, sgdm = hand_designed("adam"), hand_designed("sgdm")
    missing = {"a": (adam, sgdm), "b": (adam,), "c": (adam, sgdm), "d": ()}
    jobs = measure_lib._jobs(missing, {"a": "1", "b": "1", "c": "2", "d": "1"})
    found = [(job.labels, tuple(c.name for c in job.contestants)) for job in jobs]
    assert sorted(found) == [
        (("a",), ("sgdm",)),
        (("a", "b"), ("adam",)),
        (("c",), ("adam",)),
        (("c",), ("sgdm",)),
    ]


def test_what_the_device_refuses_is_told_in_one_line():
    def run(job, device, stop):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmuch more")

    job = measure_lib.Job(("wide",), (hand_designed("adam"),))
    with pytest.raises(RunError, match="^cannot train wide with adam: RESOURCE_EXHAUSTED: out of memory$"):
        measure_lib._in_threads(run, [job])


def test_an_optimizer_that_diverges_is_counted_and_gets_the_lowest_score():
    settings = Settings(**{**vars(SETTINGS), "rivals": ("adam",), "trials": 1})
    subject = learned("lost", GROWING, jnp.float32(0))
    found = evaluate(subject, {"cliff": TASKS["cliff"]}, settings)
    short, long = found.cells
    outcome = long.outcomes["per_task_tuned"]
    assert outcome.speed_up == 0.05 and outcome.loss_ratio["adam"] == 1000 and long.diverged == 2
    assert not outcome.censored and np.isposinf(long.loss["learned"]).all()
    assert short.diverged == 0 and short.outcomes["per_task_tuned"].speed_up == 1
    assert found.divergence_rate == 0.5
    assert found.scores["all"]["per_task_tuned"]["speed_up"].worst == 0.05
    assert set(short.outcomes) == {"per_task_tuned", "single_setting"}  # one trial: no equal budget
