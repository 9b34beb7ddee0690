"""The optimizer that a population of meta-trainings leaves behind."""

from pathlib import Path

import jax
import numpy as np
import pytest

import learned_opt
from meta_train.checkpoint.checkpoints import Checkpoints
from meta_train.cli import main as cli
from meta_train.cli.sources import open_source
from meta_train.config.file import parse
from meta_train.evaluation.protocol import Settings
from meta_train.population import config as config_lib
from meta_train.population import lineage
from meta_train.population.run import build_population, run_population

CONFIG = """
rounds: 2
round_steps: 2
eval_every: 2
average: 1
trainer:
  name: meta_training
  horizon: 4
  num_seeds: 1
  config:
    outer_steps: 4
    tasks: [{name: quadratic, dim: 2}]
    learned_optimizer: {name: learnable_adam}
    inner: {unroll_length: 4}
    estimator: {name: nres, num_particles: 2, truncation_length: 2}
    outer_optimizer: {name: sgd}
    evaluation: {tasks: [{name: quadratic, dim: 3}], horizons: [20], num_seeds: 1}
hypers:
  learning_rate: {name: log, bounds: [0.01, 1.0]}
  sigma: {name: log, bounds: [0.01, 0.1]}
controller: {name: pbt, num_members: 4}
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run, its best member, and that one's theta."""
    directory = tmp_path_factory.mktemp("finished") / "mine"
    config = config_lib.parse(parse(CONFIG))
    result = run_population(config, directory)
    hypers = {name: np.zeros(4, np.float32) for name in config.hypers}
    like = jax.eval_shape(build_population(config).engine.init, jax.random.key(0), hypers)
    with Checkpoints(directory / "checkpoints") as checkpoints:
        members = checkpoints.restore(like).state
    return directory, result.slot, jax.tree.map(lambda x: np.asarray(x)[result.slot], members.weights["ema"])


def test_the_best_members_optimizer_is_exported_with_where_it_comes_from(finished, capsys):
    directory, slot, theta = finished
    assert cli.command(["export", str(directory)]) == 0
    assert f"the best member ({slot}, round 2)" in capsys.readouterr().out
    found = learned_opt.read(directory / "optimizer")
    assert jax.tree.all(jax.tree.map(np.array_equal, found.theta, theta))
    assert (found.name, found.horizon) == ("learnable_adam", 4)
    said, last = found.provenance, lineage.read(directory)[-1]
    assert (said["population"], said["member"], said["round"], said["outer_step"]) == ("mine", slot, 2, 4)
    assert said["fitness"] == last.fitness[slot] and said["schedule"][-1]["to"] == 4
    assert said["schedule"][-1]["hypers"] == {name: values[slot] for name, values in last.hypers.items()}
    tx = learned_opt.load(directory / "optimizer", num_steps=4)
    params = {"w": np.ones(3, np.float32)}
    updates, _ = tx.update(params, tx.init(params), params)
    assert (np.asarray(updates["w"]) < 0).all()


def test_a_population_is_evaluated_as_a_run_is(finished):
    directory, slot, theta = finished
    source = open_source(str(directory))
    assert source.what["which"] == f"member {slot}" and source.what["outer_step"] == 4
    assert list(source.tasks()) == ["quadratic"] and source.settings["horizons"] == (20,)
    assert source.contestant(Settings()) is not None and source.out == directory


def test_what_has_no_learned_optimizer_is_refused_in_one_line(finished, tmp_path, capsys):
    other = "rounds: 1\nround_steps: 2\neval_every: 2\naverage: 1\ntrainer: {name: noisy_quadratic}\n"
    other += (
        "hypers: {learning_rate: {name: log, bounds: [0.1, 1.0]}}\ncontroller: {name: pbt, num_members: 4}\n"
    )
    unfinished = finished[0].joinpath("config.yaml").read_text()
    for name, text in (("other", other), ("unfinished", unfinished)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(text)
    rows = (finished[0] / "lineage.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "unfinished" / "lineage.jsonl").write_text(rows[0])
    wanted = {"other": "trainer noisy_quadratic: only one of", "unfinished": "1 of 2 rounds: resume it first"}
    for name, message in wanted.items():
        assert cli.command(["export", str(tmp_path / name)]) == 1
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
        assert not Path(tmp_path / name / "optimizer").exists()
