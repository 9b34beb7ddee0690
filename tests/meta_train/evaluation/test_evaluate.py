"""Whole evaluations of problems whose answers are known; all keys are fixed."""

import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import LearnedOptimizer
from meta_train.errors import RunError
from meta_train.evaluation import cache as cache_lib
from meta_train.evaluation import measure as measure_lib
from meta_train.evaluation.compare import needed
from meta_train.evaluation.curves import final_loss
from meta_train.evaluation.evaluate import evaluate
from meta_train.evaluation.measure import measure
from meta_train.evaluation.optimizers import hand_designed, learned
from meta_train.evaluation.protocol import Settings
from meta_train.evaluation.results import HeldOut
from meta_train.evaluation.threads import in_threads
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
    readings=2,
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
    # The best rival ends 39 steps of rate 1 lower, which steps of 2 have after half as many.
    assert long.to_target["adam"] == 40 / 21 and long.target_steps["adam"].steps == 21
    assert long.wall_clock_to_target["adam"] > 0


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


def test_a_validation_ratio_is_there_where_there_is_a_validation_split(result):
    """`fixed` gives the cliff a validation split without data; the quadratic has rows of its own."""
    for cell in result.cells:
        outcome = cell.outcomes["per_task_tuned"]
        assert outcome.valid_ratio["adam"] > 0 and np.isfinite(outcome.valid_ratio["adam"])
        assert (cell.least_valid["learned"] <= cell.valid["learned"] + 1e-6).all()
        assert np.isnan(outcome.test_ratio["adam"])


def test_without_a_validation_split_there_is_no_validation_ratio_and_with_a_test_split_a_test_ratio():
    family = quadratic()
    rows = family.data
    splits = {"bare": {"train": rows["train"]}, "all": rows | {"test": rows["valid"]}}
    tasks = {label: HeldOut(family._replace(data=data)) for label, data in splits.items()}
    settings = Settings(**{**vars(SETTINGS), "rivals": ("adam",), "trials": 1, "rates": 2, "horizons": (20,)})
    bare, whole = evaluate(learned("growing", GROWING, jnp.float32(1)), tasks, settings).cells
    assert np.isnan(bare.valid["adam"]).all() and np.isnan(
        bare.outcomes["per_task_tuned"].valid_ratio["best"]
    )
    # The test split is the validation split here, and read on the same minibatches.
    for name in ("learned", "adam"):
        np.testing.assert_array_equal(whole.test[name], whole.valid[name])
    outcome = whole.outcomes["per_task_tuned"]
    assert outcome.test_ratio["best"] == outcome.valid_ratio["best"] > 0


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


@pytest.fixture
def ran(monkeypatch):
    """The chunks that were trained, not found in the cache: the number of tasks and the settings."""
    chunks, put = [], cache_lib.Entries.put

    def counted(self, rows, seeds, found):
        chunks.append((len(self.entries), tuple(int(row) for row in rows)))
        put(self, rows, seeds, found)

    monkeypatch.setattr(cache_lib.Entries, "put", counted)
    return chunks


FAMILIES = {label: task.family for label, task in TASKS.items()}


def test_what_is_cached_is_not_run_again_and_a_damaged_entry_is(result, cache, ran):
    rivals = [hand_designed(name, settings=SETTINGS) for name in SETTINGS.rivals]
    chosen = partial(needed, {c.name: c for c in rivals}, settings=SETTINGS)
    found = measure(FAMILIES, rivals, SETTINGS, needed=chosen, cache=cache)
    assert not ran
    adam = found.grids["adam"]["quadratic"].train(1, 40)[:, 1:]
    best = result.cells[3].outcomes["per_task_tuned"].rival_setting["adam"]
    np.testing.assert_array_equal(
        final_loss(adam[rivals[0].values.index(best)], 1), result.cells[3].loss["adam"]
    )
    entries = sorted(cache.iterdir())
    # For each task: Adam and SGD at all horizons at once, Adam with a cosine and the learned one at each of
    # two.
    assert len(entries) == 2 * (1 + 1 + 2 + 2)
    damaged = next(path for path in entries if path.name.startswith("sgdm"))
    whole = damaged.read_bytes()
    for damage in (whole[:-1], b"", b"not an archive", whole[:900] + bytes([whole[900] ^ 1]) + whole[901:]):
        damaged.write_bytes(damage)
        assert cache_lib._read(damaged) == {}
    measure(FAMILIES, rivals, SETTINGS, needed=chosen, cache=cache)
    assert {families for families, _ in ran} == {1} and {row for _, rows in ran for row in rows} == set(
        range(12)
    )
    assert cache_lib._read(damaged) and sorted(cache.iterdir()) == entries


def test_of_large_tasks_only_settings_that_are_chosen_are_run_on_the_evaluation_seeds(monkeypatch):
    monkeypatch.setattr(measure_lib, "FEW_AT_ONCE", 10**9)
    steps = []
    rivals = [hand_designed(name, settings=SETTINGS) for name in SETTINGS.rivals]
    chosen = partial(needed, {c.name: c for c in rivals}, settings=SETTINGS)
    counted = lambda *row: steps.append(row[:2])  # noqa: E731
    some = measure(FAMILIES, rivals, SETTINGS, needed=chosen, progress=counted).grids
    assert steps == sorted(steps) and steps[-1][0] == steps[-1][1] and steps[0][1] < steps[-1][1]
    every = measure(FAMILIES, rivals, SETTINGS).grids
    for rival in rivals:
        for label in FAMILIES:
            for few, all_ in zip(some[rival.name][label].runs, every[rival.name][label].runs, strict=True):
                run = ~np.isnan(few).all(-1)
                assert run[:, :1].all() and 0 < run[:, 1:].sum() < run[:, 1:].size
                np.testing.assert_array_equal(few[run], all_[run])
    assert chosen(some) == chosen(every)


def test_an_evaluation_that_was_killed_goes_on_where_it_was(tmp_path, ran, monkeypatch):
    sgd = [hand_designed("sgdm")]
    monkeypatch.setattr(cache_lib, "SAVE_EVERY", 0)

    class Killed(BaseException):
        pass

    def kill(done, total, text):
        if 3 * done > total:
            raise Killed

    family = {"cliff": FAMILIES["cliff"]}
    monkeypatch.setattr(cache_lib.Entry, "save", _saved_once(cache_lib.Entry.save))
    with pytest.raises(Killed):
        measure(family, sgd, SETTINGS, cache=tmp_path, progress=kill)
    done = list(ran)
    ran.clear()
    assert 0 < len(done) < 3
    whole = measure(family, sgd, SETTINGS, cache=tmp_path).grids["sgdm"]["cliff"]
    assert len(done) + len(ran) == 3 and not {rows for _, rows in done} & {rows for _, rows in ran}
    never_stopped = measure(family, sgd, SETTINGS).grids["sgdm"]["cliff"]
    jax.tree.map(np.testing.assert_array_equal, whole, never_stopped)


def _saved_once(save):
    """`Entry.save` without the last call, which a `kill -9` never reaches."""

    def saved(self):
        if sys.exc_info()[0] is None:
            save(self)

    return saved


def test_more_rates_and_more_seeds_are_added_to_what_is_cached(tmp_path, ran):
    few = Settings(**{**vars(SETTINGS), "rates": 4, "num_seeds": 1})
    family = {"cliff": FAMILIES["cliff"]}
    first = measure(family, [hand_designed("adam_cosine", settings=few)], few, cache=tmp_path)
    files, chunks = sorted(tmp_path.iterdir()), len(ran)
    assert chunks == 2  # a length each
    more = Settings(**{**vars(SETTINGS), "rates": 4})
    second = measure(family, [hand_designed("adam_cosine", settings=more)], more, cache=tmp_path)
    assert sorted(tmp_path.iterdir()) == files
    runs = [found.grids["adam_cosine"]["cliff"].runs for found in (first, second)]
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b[:, :2])


def test_a_cache_that_cannot_be_written_only_warns(tmp_path):
    (tmp_path / "cache").write_text("a file where the directory should be")
    entry = cache_lib.Entry(
        tmp_path / "cache" / "entry.npz", np.zeros(1), jax.random.split(jax.random.key(0), 1)
    )
    entry.put([0], [0], [np.zeros((1, 1, 3))] * 3)
    with pytest.warns(UserWarning, match="what was measured is not kept: cannot write"):
        entry.save()


def names_of(contestant, family, settings=SETTINGS):
    described = {"one": cache_lib.digests(family)}
    entries = measure_lib._entries([contestant], described, settings, Path("cache"))
    return [entry.path.name for entry in entries[contestant.name, "one"]]


def test_another_task_other_data_other_settings_or_another_program_are_another_entry(monkeypatch):
    family = quadratic()
    other_loss = family._replace(
        task=lambda cfg: family.task(cfg)._replace(loss=lambda p, k, d: jnp.sum(p["x"] ** 4))
    )
    adam = hand_designed("adam")
    described = [cache_lib.digests(f) for f in (family, quadratic(), quadratic(0.1), other_loss)]
    assert described[0] == described[1]
    assert described[0].program == described[2].program != described[3].program
    same = names_of(adam, family)
    assert same == names_of(adam, quadratic()) == names_of(hand_designed("adam@0.02", "adam"), family)
    assert same == names_of(adam, family, Settings(**{**vars(SETTINGS), "num_seeds": 9, "rates": 3}))
    others = [
        names_of(adam, quadratic(0.1)),
        names_of(adam, other_loss),
        names_of(adam, family, Settings()),
        names_of(adam._replace(build=lambda s, n: optax.adam(s["learning_rate"], b1=0.8)), family),
        names_of(learned("one", GROWING, jnp.float32(1)), family),
        names_of(learned("one", GROWING, jnp.float32(2)), family),
    ]
    # The training loop itself: curves that clip the loss, wherever that is written, are other curves.
    cache_lib.loop_digest.cache_clear()
    monkeypatch.setattr(optax, "apply_updates", lambda p, u: jax.tree.map(lambda a, b: a + 0.5 * b, p, u))
    others.append(names_of(adam, family))
    cache_lib.loop_digest.cache_clear()
    every = [tuple(same), *map(tuple, others)]
    assert len(set(every)) == len(every)


def test_runs_of_one_file_differ_by_setting_and_seed():
    keys = jax.random.split(jax.random.key(0), 3)
    entry = cache_lib.Entry(None, {"rate": np.float32([1, 2]), "decay": np.float32([0, 0])}, keys)
    assert len({entry.name(row, seed) for row in range(2) for seed in range(3)}) == 6
    again = cache_lib.Entry(None, {"rate": np.float32([2]), "decay": np.float32([0])}, keys[1:])
    assert again.name(0, 0) == entry.name(1, 1)


def test_families_of_one_shape_are_one_job():
    adam, sgdm = hand_designed("adam"), hand_designed("sgdm")
    wanted = {("adam", "a"): {2}, ("adam", "b"): {1, 2}, ("sgdm", "a"): {2, 0}}
    wanted |= {(name, "c"): {3} for name in ("adam", "sgdm")}
    missing = {"a": (adam, sgdm), "b": (adam,), "c": (adam, sgdm), "d": ()}
    jobs = measure_lib._jobs(missing, {"a": "1", "b": "1", "c": "2", "d": "1"}, wanted)
    found = [(job.labels, tuple(c.name for c in job.contestants), job.rows) for job in jobs]
    assert sorted(found) == [
        (("a",), ("sgdm",), ((0, 2),)),
        (("a", "b"), ("adam",), ((1, 2),)),
        (("c",), ("adam",), ((3,),)),
        (("c",), ("sgdm",), ((3,),)),
    ]


def test_what_the_device_refuses_is_told_in_one_line():
    def run(job, device, stop):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory\nmuch more")

    job = measure_lib.Job(("wide",), (hand_designed("adam"),), ((0,),))
    with pytest.raises(RunError, match="^cannot train wide with adam: RESOURCE_EXHAUSTED: out of memory$"):
        in_threads(run, [job])


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
