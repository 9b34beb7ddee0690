"""Tasks whose data pass through a buffer: all members see the same rows, which change between rounds."""

import jax
import numpy as np
import pytest

from meta_train.core.stream import buffer_at
from meta_train.errors import ConfigError
from meta_train.population import config as config_lib
from meta_train.population import lineage
from meta_train.population.mesh import member_mesh
from meta_train.population.meta_training import meta_training
from meta_train.population.rounds import evolve
from meta_train.population.run import build_population, run_population
from meta_train.population.streamed import placed, streamed
from meta_train.run.train import Display

STREAMED = {
    "outer_steps": 10,
    "tasks": [
        {"name": "image_mlp", "hidden": [2], "batch_size": 4, "datasets": ["digits[:64]"]}
        | {"label": "flow", "stream": {"rows": 16, "chunk": 4, "every": 4}},
        {"name": "quadratic", "dim": 2},
    ],
    "learned_optimizer": {"name": "learnable_adam"},
    "inner": {"unroll_length": 4},
    "estimator": {"name": "nres", "num_particles": 2, "truncation_length": 2},
    "outer_optimizer": {"name": "sgd"},
    "selection": {"tasks": [{"name": "quadratic", "dim": 2}]},
}
CONFIG = {
    "rounds": 4,
    "round_steps": 2,
    "eval_every": 2,
    "average": 1,
    "trainer": {"name": "meta_training", "horizon": 4, "num_seeds": 1, "config": STREAMED},
    "hypers": {"learning_rate": {"name": "log", "bounds": [0.1, 10.0]}},
    "controller": {"name": "pbt", "num_members": 4},
}


def test_the_buffers_of_all_devices_are_what_a_single_run_has_at_that_step():
    mesh = member_mesh(2, 4, 2)
    trainer = placed(meta_training(("learning_rate",), config=STREAMED), mesh)
    source = trainer.streams["flow"]
    with streamed(trainer, mesh) as stream:
        for step, count in ((0, 0), (2, 0), (4, 1), (12, 3)):
            found = stream.at(step)["train"]["flow"]["train"]
            assert found["x"].sharding.is_fully_replicated and len(found["x"].devices()) == 4
            for name, wanted in buffer_at(source, count).items():
                np.testing.assert_array_equal(found[name], wanted)
        place = stream.position(12)
    assert place["flow"]["refreshes"] == 3
    with streamed(trainer, mesh, 12, place) as stream:  # as a resumed population does
        again = stream.at(12)["train"]["flow"]["train"]
        jax.tree.map(np.testing.assert_array_equal, again, buffer_at(source, 3))


def test_a_stream_that_does_not_fit_the_rounds_is_refused_by_name():
    message = r"stream.every of flow: must be a multiple of round_steps \(3\): members run .* \(value 4\)$"
    with pytest.raises(ConfigError, match=message):
        config_lib.parse(CONFIG | {"round_steps": 3, "eval_every": 3})
    with pytest.raises(
        ValueError, match="^config.selection.tasks must name tasks for the fitness where data are"
    ):
        meta_training(("learning_rate",), config=STREAMED | {"selection": {}})


@pytest.mark.slow
def test_stopped_and_resumed_it_sees_the_same_rows(tmp_path):
    config = config_lib.parse(CONFIG)
    population = build_population(config)
    _, records = evolve(population, 4)
    frozen = population._replace(trainer=population.trainer._replace(streams={}))
    same = [np.array_equal(a.scores, b.scores) for a, b in zip(records, evolve(frozen, 4)[1], strict=True)]
    assert same[:2] == [True, True] and not same[3]  # the first refresh is after two rounds

    class Enough(Exception):
        pass

    def stop(round):
        if round == 4:  # round 3 is saved, round 4 is not
            raise Enough

    with pytest.raises(Enough):
        run_population(config, tmp_path / "r", display=Display(step=stop))
    run_population(config, tmp_path / "r", resume=True)
    for a, b in zip(lineage.read(tmp_path / "r"), records, strict=True):
        np.testing.assert_array_equal(a.scores, b.scores)
