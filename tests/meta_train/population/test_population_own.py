"""A population whose trainer and controller are a person's own, named by file."""

from pathlib import Path

import pytest

from meta_train.errors import ConfigError, RunError
from meta_train.population import config as config_lib
from meta_train.population.run import load_config, run_population

FILE = '''
import jax.numpy as jnp

from meta_train.population import Member, Trainer
from meta_train.population.pbt import random_search


def climb(searched=(), *, start: float = 1.0):
    """Gradient descent on w^2."""
    return Trainer(
        init=lambda key, hypers: Member(jnp.float32(start)),
        step=lambda member, hypers, key, data: member._replace(
            weights=member.weights * (1 - 2 * hypers["rate"])
        ),
        score=lambda member, data: -jnp.square(member.weights),
        hypers=("rate",),
    )


def search(setting, *, num_members: int = 3):
    """Random search by another name."""
    return random_search(setting, num_members=num_members)


def wrong(setting):
    return 3
'''
CONFIG = """
rounds: 2
round_steps: 4
eval_every: 2
average: 1
trainer: {name: "mine.py:climb", start: 2.0}
hypers: {rate: {name: log, bounds: [0.01, 0.4]}}
controller: {name: "mine.py:search"}
"""


@pytest.fixture
def directory(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    (tmp_path / "p.yaml").write_text(CONFIG)
    return tmp_path


def test_it_trains_and_is_found_again_and_refused_once_its_source_has_changed(directory):
    run = directory / "run"
    config = config_lib.load(directory / "p.yaml")
    result = run_population(config, run)
    assert -4 < result.fitness <= 0
    assert load_config(run) == config
    assert {path.name.partition("_")[2] for path in (run / "sources").glob("*.py")} == {"mine.py"}
    (directory / "mine.py").write_text(FILE.replace("1 - 2 *", "1 - 3 *"))
    with pytest.raises(RunError, match=r"trainer.name is .*mine.py was changed after the run began"):
        run_population(config, run, resume=True)
    Path(directory / "mine.py").unlink()
    with pytest.raises(RunError, match="is gone: put it back"):
        load_config(run)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trainer.start=x", "trainer.start: must be a number"),
        ("controller.name={0}/mine.py:wrong", "must return a Controller, got int"),
        ("trainer.name={0}/mine.py:nothing", "has no nothing"),
        ("hypers={{size: {{name: log, bounds: [0.01, 0.4]}}}}", "is no hyperparameter of the trainer"),
    ],
)
def test_what_is_wrong_with_it_is_said_before_anything_is_compiled(directory, override, words):
    with pytest.raises(ConfigError, match=words.replace(".", r"\.")):
        config_lib.load(directory / "p.yaml", [override.format(directory)])
