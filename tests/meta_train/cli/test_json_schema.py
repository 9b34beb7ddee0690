"""`meta-train schema` and `completion`: what editors and shells know."""

import copy
import json
import subprocess
from pathlib import Path

import jsonschema
import pytest

from meta_train.cli import json_schema
from meta_train.cli import main as cli
from meta_train.cli.completion import SHELLS
from meta_train.config import file as config_file
from meta_train.config import load as config_lib
from meta_train.config.checks import default_registries
from meta_train.errors import ConfigError

CONFIGS = sorted((Path(__file__).parents[3] / "configs").glob("*.yaml"))
GOOD = {
    "outer_steps": 20,
    "tasks": [{"name": "quadratic", "dim": 3, "weight": 2.0}, {"name": "digits_mlp_32"}],
    "learned_optimizer": {"name": "per_param_mlp", "hidden": 8},
    "inner": {"unroll_length": {"min": 10, "max": 20}},
    "estimator": {"name": "pes", "num_particles": 4, "truncation_length": 5, "sigma": 0.1},
    "outer_optimizer": {"learning_rate": {"schedule": "cosine", "init_value": 0.01}},
}


@pytest.fixture(scope="module")
def validator():
    schema = json_schema.config_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def errors(validator, raw):
    return list(validator.iter_errors(json.loads(json.dumps(raw))))


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
def test_every_config_that_ships_is_valid(validator, file):
    assert errors(validator, config_file.read(file)) == []


def test_a_resolved_config_is_valid_as_a_file_is(validator):
    assert errors(validator, GOOD) == []
    assert errors(validator, config_lib.resolved(config_lib.parse(GOOD))) == []


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("outer_steps", 0),
        ("outer_steps", "many"),
        ("seed", -1),
        ("sead", 1),
        ("tasks", []),
        ("tasks.0.name", "quadratik"),
        ("tasks.0.dimension", 3),
        ("tasks.0.weight", 0),
        ("tasks.1.augment", [{"name": "unheard_of"}]),
        ("estimator.sigma", -1.0),
        ("estimator.num_particles", 2.5),
        ("estimator.name", None),
        ("inner.unroll_length", {"min": 10}),
        ("inner.objective", {"reduce": "sum"}),
        ("outer_optimizer.learning_rate", {"schedule": "cosine"}),
        ("outer_optimizer.lr", 0.1),
        ("logging", {"tensorboard": True}),
        ("mesh", {"particles": "all"}),
    ],
)
def test_what_a_run_refuses_the_schema_refuses(validator, key, value):
    raw = copy.deepcopy(GOOD)
    node, (*path, last) = raw, key.split(".")
    for part in path:
        node = node[int(part) if isinstance(node, list) else part]
    node[last] = value
    assert errors(validator, raw)
    with pytest.raises(ConfigError):
        config_lib.parse(raw)


def test_names_of_ones_own_are_valid_where_a_registry_is_open(validator):
    own = GOOD | {"tasks": [{"name": "my_tasks.py:line_fit", "anything": 1}]}
    assert errors(validator, own) == []


def test_every_name_and_its_options_are_known_with_their_documentation(validator):
    defs = validator.schema["$defs"]
    for name in default_registries().estimators:
        (place,) = [key for key in defs if key.endswith(f".{name}") and "estimators" in key]
        assert "num_particles" in defs[place]["properties"], name
    assert defs["TrainingTask.quadratic"]["properties"]["dim"]["default"] == 10
    assert defs["TrainingTask.quadratic"]["properties"]["dim"]["description"]
    seed = defs["RunConfig"]["properties"]["seed"]
    assert seed["description"].startswith("All randomness") and seed["minimum"] == 0 and seed["default"] == 0


def test_a_population_is_recognised_by_its_controller(validator):
    raw = config_file.read(next(file for file in CONFIGS if file.stem == "population_trap"))
    assert errors(validator, raw | {"round_steps": 0}) and errors(validator, raw | {"outer_steps": 5})


def test_the_command_prints_the_schema_or_writes_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(json_schema, "config_schema", lambda: {"a": 1})
    assert cli.command(["schema"]) == 0
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    file = tmp_path / "schema.json"
    assert cli.command(["schema", "--out", str(file)]) == 0
    assert json.loads(file.read_text()) == {"a": 1}
    assert f"$schema={file}" in capsys.readouterr().out


@pytest.mark.parametrize("shell", SHELLS)
def test_a_completion_script_knows_every_command(shell, capsys):
    assert cli.command(["completion", shell]) == 0
    script = capsys.readouterr().out
    for command in ("run", "evaluate", "plot", "population", "schema"):
        assert command in script
    assert "--resume" in script or shell == "tcsh"


def test_the_completion_script_completes_in_a_real_bash(capsys, tmp_path):
    assert cli.command(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    ask = (
        f"source {tmp_path / 'script'}; COMP_WORDS=(meta-train evalu); COMP_CWORD=1; "
        "_shtab_meta_train; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", ask], capture_output=True, text=True)
    assert done.stdout.split() == ["evaluate"], done.stderr
