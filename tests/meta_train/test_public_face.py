"""The public names of `meta_train`: documented, importable, and used together as a notebook would."""

import inspect
from pathlib import Path

import jax
import numpy as np
import pytest

import learned_opt
import meta_train
from meta_train.errors import ConfigError, RunError
from meta_train.run import hooks
from meta_train.run.train import Display

TINY = """
tasks: [{name: quadratic, dim: 4}]
learned_optimizer: {name: learnable_sgd}
estimator: {name: pes, num_particles: 2, truncation_length: 2}
inner: {unroll_length: 4}
outer_optimizer: {name: adam, learning_rate: 0.01}
outer_steps: 4
"""
RAW = {
    "tasks": [{"name": "quadratic", "dim": 4}],
    "learned_optimizer": {"name": "learnable_sgd"},
    "estimator": {"name": "pes", "num_particles": 2, "truncation_length": 2},
    "inner": {"unroll_length": 4},
    "outer_optimizer": {"name": "adam", "learning_rate": 0.01},
    "outer_steps": 40,
    "logging": {"every": 10},
    "selection": {"every": 20, "tasks": [{"name": "quadratic", "dim": 3}], "horizons": [20], "num_seeds": 1},
    "evaluation": {"tasks": [{"name": "quadratic", "dim": 3}], "horizons": [20], "num_seeds": 2},
}
POPULATION = {
    "rounds": 3,
    "round_steps": 10,
    "eval_every": 5,
    "average": 2,
    "trainer": {"name": "noisy_quadratic"},
    "hypers": {"learning_rate": {"name": "log", "bounds": [0.001, 1.0]}},
    "controller": {"name": "pbt", "num_members": 4},
}


@pytest.mark.parametrize("name", meta_train.__all__)
def test_a_public_name_is_a_documented_function_that_the_module_lists(name):
    found = getattr(meta_train, name)
    assert inspect.isfunction(found) and len(inspect.getdoc(found) or "") > 100
    assert f"  {name}(" in meta_train.__doc__ and name in dir(meta_train)


def test_an_unknown_name_is_an_ordinary_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        getattr(meta_train, "trian")  # noqa: B009


def test_a_run_from_python_trains_and_gives_an_artefact_that_loads(tmp_path):
    (tmp_path / "tiny.yaml").write_text(TINY)
    config = meta_train.load_config(tmp_path / "tiny.yaml", ["seed=3"])
    result = meta_train.train(config, str(tmp_path / "run"))
    assert result.outer_steps == 4 and config.seed == 3
    trained = meta_train.load_run(tmp_path / "run", pytest.fail)
    assert trained.outer_step == 4
    assert meta_train.export(tmp_path / "run", tmp_path / "optimizer", pytest.fail)[1].startswith("use it")
    learned_opt.load(tmp_path / "optimizer", num_steps=4)


@pytest.fixture(scope="module")
def in_memory():
    """The same config trained without files."""
    return meta_train.train(meta_train.load_config(RAW), display=Display())


def test_a_run_in_memory_finds_what_a_run_in_a_directory_finds_and_writes_nothing(
    in_memory, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    again = meta_train.train(meta_train.load_config(RAW), display=Display())
    assert list(tmp_path.iterdir()) == [] and again.directory is None
    filed = meta_train.train(meta_train.load_config(RAW), tmp_path / "run", display=Display())
    assert again.best_score == filed.best_score == in_memory.best_score
    assert again.best_step == filed.best_step
    for one in (again, filed):
        jax.tree.map(np.testing.assert_array_equal, one.theta, in_memory.theta)
        jax.tree.map(np.testing.assert_array_equal, one.best_theta, in_memory.best_theta)
    metrics = meta_train.load_metrics(tmp_path / "run")
    assert list(metrics) == list(filed.metrics) == list(in_memory.metrics)
    for name, values in metrics.items():
        if not name.endswith("per_second"):
            np.testing.assert_array_equal(values, in_memory.metrics[name])


def test_metrics_are_arrays_with_nan_where_a_step_has_no_such_number(in_memory):
    metrics = in_memory.metrics
    assert metrics["step"].tolist() == [9, 19, 29, 39] and metrics["step"].dtype == np.int64
    assert {values.shape for values in metrics.values()} == {(4,)}
    assert np.isfinite(metrics["loss"]).all()
    assert np.isnan(metrics["held_out/score"]).tolist() == [True, False, True, False]


def test_a_run_in_memory_is_evaluated_exported_diagnosed_and_drawn(in_memory, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = meta_train.evaluate(in_memory, options={"rates": 2, "tune_decay": False})
    assert [cell.task for cell in found.cells] == ["quadratic"] and "speed-up" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []
    meta_train.export(in_memory, "optimizer")
    artefact = learned_opt.read("optimizer")
    jax.tree.map(np.testing.assert_array_equal, artefact.theta, in_memory.best_theta)
    assert artefact.provenance["which"] == "best"
    figure = meta_train.plot(in_memory, in_memory, labels=["a", "b"], inner_steps=True)
    assert [panel.get_ylabel() for panel in figure.axes] == [
        "meta-loss",
        "signal-to-noise ratio",
        "held-out score",
    ]
    assert figure.axes[0].lines[0].get_xdata().tolist() == in_memory.metrics["inner_steps"].tolist()


def test_a_diagnosis_is_made_at_the_theta_of_a_run_in_memory(in_memory, capsys):
    config = meta_train.load_config(RAW)
    found = meta_train.diagnose_config(
        config, run=in_memory, estimators=["pes"], sigmas=[0.01], num_samples=8
    )
    assert found.rows and "best theta of the run" not in capsys.readouterr().err
    with pytest.raises(RunError, match="does not fit the config's learned optimizer"):
        other = meta_train.load_config(RAW, ["learned_optimizer.name=learnable_adam"])
        meta_train.diagnose_config(other, run=in_memory)


def test_an_interrupted_run_in_memory_returns_what_it_has(monkeypatch):
    monkeypatch.setattr(hooks, "stop_when", lambda asked, *rest: stop_at(20))
    warned = []
    result = meta_train.train(meta_train.load_config(RAW), display=Display(warn=warned.append))
    assert result.outer_steps == 20 and len(result.metrics["step"]) == 2
    assert warned[-1] == "stopped after outer step 20"


def stop_at(last):
    def hook(step, state, metrics):
        if step == last:
            raise hooks.Interrupted(step)

    return hook


def test_a_run_in_memory_cannot_be_resumed_and_a_wrong_dict_is_refused_like_a_wrong_file():
    with pytest.raises(RunError, match="^resume must be false for a run in memory"):
        meta_train.train(meta_train.load_config(RAW), resume=True)
    with pytest.raises(ConfigError, match="^outer_steps: must be >= 1"):
        meta_train.load_config(RAW | {"outer_steps": 0})


def test_metrics_of_what_is_no_run_are_refused(tmp_path):
    with pytest.raises(RunError, match="is not the directory of a run"):
        meta_train.load_metrics(tmp_path)
    with pytest.raises(RunError, match="^plot needs at least one run"):
        meta_train.plot()
    with pytest.raises(RunError, match=r"^labels must be as many as runs \(1\), got 2"):
        meta_train.plot(tmp_path, labels=["a", "b"])


def test_a_population_in_memory_finds_what_one_in_a_directory_finds(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = meta_train.load_population_config(POPULATION, ["seed=1"])
    found = meta_train.train_population(config, display=Display())
    assert list(tmp_path.iterdir()) == []
    assert len(found.records) == 3 and found.metrics["fitness/best"].shape == (3,)
    assert found.metrics["fitness/best"][-1] == found.fitness
    filed = meta_train.train_population(config, tmp_path / "p", display=Display())
    assert (filed.slot, filed.fitness) == (found.slot, found.fitness)
    jax.tree.map(np.testing.assert_array_equal, filed.weights, found.weights)
    assert len(meta_train.plot_population(found).axes) == len(meta_train.plot_population(Path("p")).axes) == 3
