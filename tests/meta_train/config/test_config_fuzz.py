"""Configs wrong in random ways: each is accepted, or refused with one line for each problem, at once."""

import copy
import random
import signal
import warnings
from pathlib import Path

import pytest

from meta_train.config import checks, load
from meta_train.config.file import dump
from meta_train.errors import ConfigError
from meta_train.population import config as population
from meta_train.population.controllers import CONTROLLERS
from meta_train.population.space import SCALES
from meta_train.population.trainers import TRAINERS

CPU_SECONDS = 5  # of one case: a hang; counted in the process's own time, as machines may be busy
RUN = {
    "outer_steps": 100,
    "tasks": [
        {"name": "quadratic", "dim": 3, "weight": 2.0, "augment": [{"name": "reparameterise"}]},
        {"name": "image_mlp", "hidden": [8], "datasets": ["digits[:100]"], "label": "mlp"},
    ],
    "learned_optimizer": {"name": "residual", "hidden": 8},
    "inner": {"unroll_length": {"min": 100, "max": 500}, "objective": {"log": True, "cap": 4.0}},
    "estimator": {"name": "nres", "num_particles": 4, "truncation_length": 20, "noise": {"cohort": 2}},
    "outer_optimizer": {
        "name": "adam",
        "learning_rate": {"schedule": "cosine", "init_value": 0.01},
        "b2": 0.9,
    },
    "selection": {"every": 10, "tasks": [{"name": "quadratic"}], "horizons": [20]},
    "evaluation": {"tasks": [{"name": "quadratic"}]},
    "mesh": {"particles": "auto"},
    "runtime": {"x64": False, "particle_chunk": None},
    "logging": {"wandb": {"mode": "disabled"}},
}
POPULATION = {
    "rounds": 3,
    "round_steps": 20,
    "eval_every": 5,
    "trainer": {"name": "noisy_quadratic", "noise": 0.1},
    "hypers": {"learning_rate": {"name": "log", "bounds": [0.01, 1.0], "explore": {"name": "factors"}}},
    "controller": {"name": "fire_pbt", "subpopulations": [4, 4], "evaluators": [2]},
    "mesh": {"members": 1},
}
VALUES = [
    None, True, "x", "", "auto", -1, 0, 1, 3, 1.5, [], {}, [1], [[1]], {"a": 1}, {"name": "adam"},
    "1e-3", float("nan"), float("inf"), -float("inf"), 1e30, 10**6, 10**7, 10**9, 10**12, 10**30, -(10**30),
    "x" * 5000, [8] * 2000, ["a"] * 900, [8, 1e30], [10**9, 10**9], "~nouser/x", "hub:a/b",
    "\x1b[31m", "a\nb",
]  # fmt: skip
TEXTS = [
    "!!bool maybe", "!!timestamp abc", "!!map [1]", "!!python/object/apply:os.system [ls]", "&a [*a]",
    "*b", "[" * 3000, "{a: " * 200, "'", '"\\xZZ"', "{a: 1, a: 2}", "!!binary x", "&a {<<: *a}", "|",
    "!<tag:x> 3", "%", "9" * 4000, "!!float x", "!!set {a}", "? [1]", "\t- x", "@", "`", "0x" + "f" * 4000,
    "2001-01-01", "1:2:3",
]  # fmt: skip
PAIRS = [
    {"inner.unroll_length": 30, "estimator.truncation_length": 20},
    {"inner.unroll_length": 10**6, "estimator.truncation_length": 10**6},
    {"estimator.num_particles": 3, "mesh.particles": 2},
    {"estimator.name": "full_es"},
    {"selection.every": 3, "selection.tasks": []},
    {"inner.objective.cap": -1, "inner.objective.offset": 0.5},
    {"inner.objective.late": 1, "inner.objective.reduce": "last"},
    {"rotation": {"active": 9, "every": 2}},
    {"tasks.0.label": "mlp"},
    {"estimator.noise": {"cohort": 3}},
]


def places(node, path=()):
    """Every path in a config, of mappings and lists too."""
    yield path
    for key, value in (
        node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    ):
        yield from places(value, (*path, key))


def misspelt(rng, word):
    i = rng.randrange(len(word) + 1)
    return rng.choice(
        [word[:i] + "x" + word[i:], word[:i] + word[i + 1 :], word[::-1], word.upper(), "a." + word]
    )


def mutated(rng, config, names):
    """The config with one thing changed; what is not YAML's is put in as text."""
    config = copy.deepcopy(config)
    *path, last = rng.choice([path for path in places(config) if path])
    node = config
    for part in path:
        node = node[part]
    kind = rng.choice(["key", "value", "value", "value", "name", "extra", "gone", "text"])
    if kind == "key" and isinstance(last, str):
        node[misspelt(rng, last)] = node.pop(last)
    elif kind == "extra" and isinstance(node, dict):
        node[rng.choice(["nam", "x" * 3000, "1", "augment", "weight", "é"])] = rng.choice(VALUES)
    elif kind == "gone":
        del node[last]
    elif kind == "name" and isinstance(node, dict) and "name" in node:
        name = rng.choice(names)
        node["name"] = rng.choice([name, misspelt(rng, name)])
    elif kind == "text":
        node[last] = "@@@"
        return dump(config).replace("'@@@'", rng.choice(TEXTS))
    else:
        node[last] = copy.deepcopy(rng.choice(VALUES))
    return config


def cases(number):
    """`number` cases: `(load, text of the file, overrides)`."""
    known = checks.default_registries()
    names = [name for registry in known for name in registry]
    of_populations = [*CONTROLLERS, *SCALES, *TRAINERS]
    for seed in range(number):
        rng = random.Random(seed)
        several = rng.random() < 0.3
        config, overrides = (POPULATION if several else RUN), []
        for _ in range(rng.choice([1, 1, 1, 2, 4])):
            if isinstance(config, dict):
                config = mutated(rng, config, of_populations if several else names)
        if rng.random() < 0.3:
            path = ".".join(map(str, rng.choice(list(places(POPULATION if several else RUN)))))
            overrides.append(f"{path}={rng.choice([rng.choice(TEXTS), str(rng.choice(VALUES))])}")
        if rng.random() < 0.1:
            overrides.append(
                rng.choice(["a", "=", "." * 5000 + "=1", ".".join("a" * 5000) + "=1", "tasks.9.x=1"])
            )
        if not several and rng.random() < 0.1:
            overrides += [f"{key}={dump(value).strip()}" for key, value in rng.choice(PAIRS).items()]
        text = config if isinstance(config, str) else dump(config)
        if rng.random() < 0.03:
            text = "\n".join(f"key_{i}: {i}" for i in range(60_000))
        yield population.load if several else load.load, text, overrides


def check(directory, number):
    accepted = 0

    def hangs(*_):
        raise AssertionError("the case hangs")

    before = signal.signal(signal.SIGVTALRM, hangs)
    try:
        for i, (load_config, text, overrides) in enumerate(cases(number)):
            file = Path(directory) / "x.yaml"
            file.write_text(text, encoding="utf-8")
            signal.setitimer(signal.ITIMER_VIRTUAL, CPU_SECONDS)
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("error")
                    load_config(str(file), overrides)
                accepted += 1
            except ConfigError as error:
                lines = str(error).splitlines()
                assert len(lines) == len(error.problems) >= 1, (i, lines)
                assert all(line.strip() and len(line) < 3000 for line in lines), (i, lines)
            except Exception as error:
                raise AssertionError(f"case {i} {overrides} {text[:2000]}") from error
            finally:
                signal.setitimer(signal.ITIMER_VIRTUAL, 0)
            assert list(Path(directory).iterdir()) == [file]
    finally:
        signal.signal(signal.SIGVTALRM, before)
    assert 0 < accepted < number / 2


def test_configs_that_are_wrong_in_random_ways_are_refused_line_by_line(tmp_path):
    check(tmp_path, 60)


@pytest.mark.slow
def test_seven_hundred_configs_that_are_wrong_in_random_ways_are_refused_line_by_line(tmp_path):
    check(tmp_path, 700)
