"""Config files: what a right one becomes, and every way to be wrong, one line each."""

import logging
import re
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Literal

import jax
import pytest
from annotated_types import Ge, Gt
from pydantic import BaseModel

from meta_train.cli.describe import describe
from meta_train.config import checks as config_checks
from meta_train.config import file as config_file
from meta_train.config import load as config
from meta_train.config.checks import Registries
from meta_train.config.load import ConfigError
from meta_train.config.registry import OneOf, check, fill, option_parameters, options_model
from meta_train.core.system import check_truncation
from meta_train.run.experiment import assemble
from meta_train.run.forecast import forecast
from meta_train.run.placement import devices_of


def quadratic(
    *, dim: Annotated[int, Ge(1)] = 10, noise: float = 0.0, kind: Literal["round", "long"] = "round"
):
    if dim == 13:
        raise ValueError("dim must not be unlucky, got 13")


def residual(*, hidden: int = 8, initial_lr: float = 1e-3):
    return hidden


def nominal(*, hidden: int = 4, depth: int = 2):
    return hidden


def pes(
    system,
    *,
    num_particles: Annotated[int, Ge(1)] = 16,
    truncation_length: Annotated[int, Ge(1)] = 10,
    sigma: Annotated[float, Gt(0)] = 0.01,
    stagger: bool = True,
):
    check_truncation(system, truncation_length)


def full_es(system, *, num_particles: Annotated[int, Ge(1)] = 16, sigma: Annotated[float, Gt(0)] = 0.01):
    if system.max_length != system.length_multiple:
        raise ValueError("unroll_length must be one constant number for full_es, got a random one")


def scaled(family, *, low: Annotated[float, Gt(0)] = 0.1):
    return family


FAKE = Registries(
    {"quadratic": quadratic},
    {"residual": residual, "nominal": nominal},
    {"pes": pes, "full_es": full_es},
)
GOOD = """
outer_steps: 1000
tasks:
  - {name: quadratic, dim: 3}
  - {name: quadratic, weight: 2}
  - {name: quadratic, label: noisy, noise: 1e-1}
learned_optimizer: {name: residual}
inner: {unroll_length: {min: 100, max: 500}}
estimator: {name: pes, num_particles: 8, truncation_length: 20, sigma: 2e-2}
outer_optimizer:
  {learning_rate: {schedule: cosine, init_value: 3e-3, alpha: 0.02}, b2: 0.99, clip_norm: 1, ema: 0.99}
"""


@pytest.fixture
def path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(GOOD)
    return "x.yaml"


def problems(path, *overrides):
    with pytest.raises(ConfigError) as error:
        config.load(path, overrides, registries=FAKE)
    return str(error.value).splitlines()


def test_a_file_becomes_a_config_with_every_default_filled_in(path):
    c = config.load(path, registries=FAKE)
    assert (c.seed, c.outer_steps, c.loss_scaling, c.checkpoint.max_to_keep) == (0, 1000, "none", 3)
    assert c.estimator == {
        "name": "pes",
        "num_particles": 8,
        "truncation_length": 20,
        "sigma": 0.02,
        "stagger": True,
    }
    assert c.learned_optimizer == {"name": "residual", "hidden": 8, "initial_lr": 1e-3}
    assert [task.label for task in c.tasks] == ["quadratic_1", "quadratic_2", "noisy"]
    assert [task.weight for task in c.tasks] == [1, 2, 1]
    assert c.tasks[0].spec == {"name": "quadratic", "dim": 3, "noise": 0.0, "kind": "round"}
    assert (c.inner.unroll_length.min, c.inner.unroll_length.max) == (100, 500)
    assert c.inner.objective.model_dump() == {
        "loss": "train",
        "reduce": "mean",
        "log": True,
        "cap": 4.0,
        "offset": 0.02,
        "late": 0.0,
        "hold_diverged": False,
    }
    assert c.outer_optimizer.ema == 0.99
    spec = c.outer_optimizer.spec
    assert (spec["name"], spec["b1"], spec["b2"], spec["clip_norm"]) == ("adam", 0.9, 0.99, 1.0)
    assert spec["learning_rate"]["schedule"] == "cosine_decay_schedule" and "ema" not in spec


def test_a_resolved_config_gives_the_same_config_and_digest_back(path, tmp_path):
    c = config.load(path, registries=FAKE)
    assert config.parse(config.resolved(c), registries=FAKE) == c
    (tmp_path / "resolved.yaml").write_text(config.to_yaml(c))
    again = config.load(tmp_path / "resolved.yaml", registries=FAKE)
    assert again == c and config.to_yaml(again) == config.to_yaml(c)
    assert config.digest(again) == config.digest(c) and len(config.digest(c)) == 64


def test_the_digest_tells_configs_apart_but_not_spellings(path, tmp_path):
    c = config.load(path, registries=FAKE)
    same = GOOD.replace("sigma: 2e-2", "stagger: true, sigma: 0.020").replace("cosine,", "cosine_decay,")
    (tmp_path / "same.yaml").write_text("seed: 0\n" + same)
    assert config.digest(config.load("same.yaml", registries=FAKE)) == config.digest(c)
    other = config.load(path, ["estimator.sigma=0.021"], registries=FAKE)
    assert config.digest(other) != config.digest(c)


def test_a_config_cannot_be_changed(path):
    with pytest.raises(ValueError, match="frozen"):
        config.load(path, registries=FAKE).seed = 3


EIGHT = """
outer_step: 100
seed: yes
tasks: [{name: quadratc}, {name: quadratic, dim: 0}, {name: quadratic, dim: 13}]
learned_optimizer: {name: residual, hiden: 8}
inner: {unroll_length: 210, objective: {reduce: average}}
estimator: {name: pes, truncation_length: 20, sigma: fast}
outer_optimizer: {learning_rate: {schedule: cosine, init_value: 3e-3}, b2: 9}
"""


def test_all_mistakes_of_a_file_are_reported_at_once_in_its_order_one_line_each(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.yaml").write_text(EIGHT)
    keys = "checkpoint, estimator, evaluation, init_from, inner, learned_optimizer, logging, "
    keys += "loss_scaling, mesh, outer_optimizer, outer_steps, rotation, runtime, seed, selection, tasks"
    assert problems("x.yaml") == [
        f"x.yaml: outer_step: unknown option (value 100); did you mean outer_steps? allowed: {keys}",
        'x.yaml: seed: must be a whole number (value "yes")',
        'x.yaml: tasks.0.name: unknown name (value "quadratc"); did you mean quadratic? allowed: quadratic',
        "x.yaml: tasks.1.dim: must be >= 1 (value 0)",
        "x.yaml: tasks.2.dim: must not be unlucky, got 13",
        "x.yaml: learned_optimizer.hiden: unknown option (value 8); did you mean hidden? "
        "allowed: hidden, initial_lr",
        'x.yaml: inner.objective.reduce: must be one of mean, last (value "average")',
        "x.yaml: inner.unroll_length: must be a multiple of estimator.truncation_length (20) (value 210)",
        'x.yaml: estimator.sigma: must be a number (value "fast")',
        "x.yaml: outer_optimizer.b2: must be < 1 (value 9)",
        "x.yaml: outer_steps: is required, but not given",
    ]
    assert list(tmp_path.iterdir()) == [tmp_path / "x.yaml"]  # nothing is written


@pytest.mark.parametrize(
    ("overrides", "lines"),
    [
        (
            ["inner.unroll_length=long"],
            ['inner.unroll_length: must be a whole number or a mapping (value "long")'],
        ),
        (["inner.unroll_length=0"], ["inner.unroll_length: must be >= 1 (value 0)"]),
        (["inner.unroll_length={min: 3}"], ["inner.unroll_length.max: is required, but not given"]),
        (["inner.unroll_length.min=501"], ["inner.unroll_length.min: must be <= max (500), got 501"]),
        (
            ["inner.unroll_length={min: 21, max: 39}"],
            [
                "inner.unroll_length: must leave a multiple of estimator.truncation_length (20) in "
                'min to max (value {"min": 21, "max": 39})'
            ],
        ),
        (
            ["inner.unroll_length=25", "estimator.truncation_length=10"],
            ["inner.unroll_length: must be a multiple of estimator.truncation_length (10) (value 25)"],
        ),
        (["mesh.particles=3"], ["mesh.particles: must divide estimator.num_particles (8) (value 3)"]),
        (["tasks.2.label=quadratic_1"], None),
        (["tasks=[]"], ["tasks: must be a list of at least 1 (value [])"]),
        (["tasks={name: quadratic}"], ['tasks: must be a list (value {"name": "quadratic"})']),
        (["tasks.0.weight=0"], ["tasks.0.weight: must be > 0 (value 0)"]),
        (["tasks.0=quadratic"], None),
        (
            ["logging.wandb.mode=off"],
            [
                'logging.wandb.mode: must be one of online, offline, disabled (value "off"); '
                "did you mean offline?"
            ],
        ),
        (["mesh="], ["mesh: must be a mapping (value null)"]),
        (["evaluation.tasks=held_in"], None),
        (
            ["evaluation.tasks=[{name: quadratic, dim: 0}]"],
            ["evaluation.tasks.0.dim: must be >= 1 (value 0)"],
        ),
        (["evaluation.tasks=[{dim: 1}]"], None),
        (["inner.objective={cap: -1, offset: 0.5}"], None),
        (["outer_optimizer.ema=1"], ["outer_optimizer.ema: must be < 1 (value 1)"]),
        (["outer_optimizer.learning_rate=-1"], None),
        (["outer_steps=1e2"], ["outer_steps: must be a whole number (value 100.0); write 100"]),
        (["seed=-1"], ["seed: must be >= 0 (value -1)"]),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_one_line_by_its_key(path, overrides, lines):
    found = problems(path, *overrides)
    if lines is None:
        (line,) = found
        assert line.startswith(f"command line: {overrides[0].partition('=')[0]}")
    else:
        assert found == [f"command line: {line}" for line in lines]


def test_a_label_that_two_families_would_share_is_refused(path):
    assert problems(path, "tasks.1.label=noisy") == [
        'x.yaml: tasks.2.label: is also that of tasks.1; give one of them a label of its own (value "noisy")'
    ]


def test_problems_of_overrides_name_the_command_line_and_the_others_the_file(path):
    with open(path, "a") as file:
        file.write("mesh: {particles: 0}\n")
    assert problems(path, "estimator.sigma=0", "nonsense") == [
        "command line: nonsense: must be key=value, with dots in the key",
        "command line: estimator.sigma: must be > 0 (value 0)",
        "x.yaml: mesh.particles: must be >= 1 (value 0)",
    ]


def test_a_wrong_option_does_not_hide_what_is_wrong_between_sections(path):
    found = problems(path, "estimator.sigma=fast", "inner.objective.log=3", "inner.unroll_length=210")
    assert any("inner.unroll_length: must be a multiple" in line for line in found) and len(found) == 3


def test_a_name_on_the_command_line_keeps_the_options_that_the_new_one_has(path, tmp_path):
    c = config.load(path, ["learned_optimizer.hidden=3", "learned_optimizer.initial_lr=1"], registries=FAKE)
    (tmp_path / "y.yaml").write_text(config.to_yaml(c))
    c = config.load("y.yaml", ["learned_optimizer.name=nominal"], registries=FAKE)
    assert c.learned_optimizer == {"name": "nominal", "hidden": 3, "depth": 2}
    c = config.load(path, ["estimator.name=full_es", "inner.unroll_length=7"], registries=FAKE)
    assert c.estimator == {"name": "full_es", "num_particles": 8, "sigma": 0.02}
    c = config.load(path, ["tasks.1.name=quadratic", "outer_optimizer.name=sgd"], registries=FAKE)
    assert c.tasks[1].weight == 2 and c.outer_optimizer.ema == 0.99
    assert c.outer_optimizer.spec["clip_norm"] == 1 and "b2" not in c.outer_optimizer.spec


def test_an_option_of_the_old_name_on_the_command_line_is_refused_not_dropped(path):
    (line,) = problems(path, "estimator.name=full_es", "estimator.stagger=false", "inner.unroll_length=7")
    assert line.startswith("command line: estimator.stagger: unknown option (value false)")


def test_what_a_factory_refuses_comes_out_before_anything_is_built(path):
    assert problems(path, "estimator.name=full_es") == [
        "command line: estimator: unroll_length must be one constant number for full_es, got a random one"
    ]


WITH_NAMES = FAKE._replace(
    augmentations={"scaled": scaled},
    named={"long_13": {"name": "quadratic", "kind": "long", "noise": 0.5}},
)


def test_a_named_task_stands_for_its_family_and_options(path):
    overrides = [
        "tasks.1={name: long_13, noise: 0.1, weight: 3}",
        "evaluation.tasks=[{name: long_13}]",
    ]
    c = config.load(path, overrides, registries=WITH_NAMES)
    assert c.tasks[1].spec == {"name": "quadratic", "dim": 10, "noise": 0.1, "kind": "long"}
    assert (c.tasks[1].label, c.tasks[1].weight) == ("long_13", 3)
    assert c.evaluation.tasks == ({"name": "quadratic", "dim": 10, "noise": 0.5, "kind": "long"},)
    assert config.parse(config.resolved(c), registries=WITH_NAMES) == c


def test_augmentations_are_part_of_a_task_wherever_one_stands(path):
    overrides = [
        "tasks.1.augment=[{name: scaled, low: 0.5}, {name: scaled}]",
        "evaluation.tasks=[{name: quadratic, augment: [{name: scaled}]}]",
    ]
    c = config.load(path, overrides, registries=WITH_NAMES)
    scales = ({"name": "scaled", "low": 0.5}, {"name": "scaled", "low": 0.1})
    assert c.tasks[1].augment == scales and c.tasks[1].spec["augment"] == scales
    assert "augment" not in c.tasks[0].spec
    assert c.evaluation.tasks[0]["augment"] == ({"name": "scaled", "low": 0.1},)
    assert config.parse(config.resolved(c), registries=WITH_NAMES) == c


def test_wrong_augmentations_are_told_with_their_place(path):
    augment = "tasks.1.augment=[{name: scale}, {name: scaled, low: 0}, {name: scaled, lo: 1}]"
    with pytest.raises(ConfigError) as error:
        config.load(path, [augment], registries=WITH_NAMES)
    first, second, third = str(error.value).splitlines()
    assert "tasks.1.augment.0.name: unknown name" in first and "did you mean scaled" in first
    assert "tasks.1.augment.1.low: must be > 0 (value 0)" in second
    assert "tasks.1.augment.2.lo: unknown option" in third and "low" in third


def test_importing_config_imports_no_jax():
    code = "import sys, meta_train.config; print([m for m in ('jax', 'optax', 'haiku') if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def real_factories():
    registries = config_checks.default_registries()
    return [
        pytest.param(registry, name, id=f"{kind}-{name}")
        for kind, registry in registries._asdict().items()
        if kind != "named"
        for name in registry
    ]


@pytest.mark.parametrize(("registry", "name"), real_factories())
def test_every_option_of_every_factory_is_typed_and_documented_and_its_default_allowed(registry, name):
    description = describe(registry, name)
    assert description.summary
    assert [option.name for option in description.options if not option.help] == []
    spec = {"name": name}
    required = {option.name for option in option_parameters(registry[name]) if option.default is option.empty}
    found = check(registry, spec, "x")
    assert {problem.key.removeprefix("x.") for problem in found} == required
    if not found:
        filled, _ = fill(registry, spec)
        assert fill(registry, filled) == (filled, [])
    # Options never shadow the keys that the config itself has beside them.
    assert not {"name", "weight", "label", "augment", "stream"} & set(
        options_model(registry[name]).model_fields
    )


def test_a_real_config_loads_without_a_compilation(tmp_path, caplog):
    (tmp_path / "x.yaml").write_text(
        "outer_steps: 100\ntasks: [{name: image_mlp}, {name: quadratic}]\n"
        "learned_optimizer: {name: residual}\n"
        "inner: {unroll_length: {min: 100, max: 500}}\nestimator: {name: nres, truncation_length: 20}\n"
        "outer_optimizer: {learning_rate: 1e-3}\n"
    )
    with jax.log_compiles(), caplog.at_level(logging.WARNING):
        c = config.load(tmp_path / "x.yaml")
    compiled = set(re.findall(r"Finished XLA compilation of jit\((\w+)\)", caplog.text))
    assert compiled <= {"broadcast_in_dim", "convert_element_type"}  # a constant array of a factory
    assert [task.label for task in c.tasks] == ["image_mlp", "quadratic"]
    assert config.parse(config.resolved(c)) == c


def test_an_unknown_task_may_have_been_meant_for_a_named_one(tmp_path):
    file = tmp_path / "x.yaml"
    file.write_text(GOOD)
    with pytest.raises(ConfigError) as error:
        config.load(str(file), ["tasks.0.name=digits_mlp23"])
    line = next(line for line in str(error.value).splitlines() if "tasks.0.name" in line)
    assert "did you mean digits_mlp_32? allowed: char_rnn" in line
    assert line.endswith("or a named task (meta-train list named)")


SMALL = """
outer_steps: 10
tasks: [{name: quadratic, dim: 2, augment: [{name: reparameterise}]}, {name: quadratic, dim: 3}]
learned_optimizer: {name: learnable_adam}
inner: {unroll_length: 10}
estimator: {name: pes, num_particles: 6, truncation_length: 5, sigma: 0.1}
outer_optimizer: {learning_rate: {schedule: cosine, init_value: 0.1}}
evaluation: {tasks: [{name: quadratic, dim: 4}]}
"""


def test_a_dry_run_validates_the_config_once_and_each_component_once(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(SMALL)
    validated = []
    whole, one = BaseModel.model_validate_json.__func__, OneOf.examine

    def count_whole(cls, *args, **kwargs):
        validated.append(cls.__name__)
        return whole(cls, *args, **kwargs)

    def count_one(self, spec, *args, **kwargs):
        examined.append(spec["schedule" if "schedule" in spec else "name"])
        return one(self, spec, *args, **kwargs)

    examined = []
    monkeypatch.setattr(BaseModel, "model_validate_json", classmethod(count_whole))
    monkeypatch.setattr(OneOf, "examine", count_one)
    forecast(assemble(config.load(tmp_path / "x.yaml", ["outer_optimizer.name=adam"])))
    components = ["quadratic"] * 3 + [
        "reparameterise",
        "learnable_adam",
        "pes",
        "adam",
        "cosine_decay_schedule",
    ]
    assert sorted(examined) == sorted(components)
    assert validated.count("RunConfig") == 1 and len(validated) == 1 + len(components)


def test_particles_are_split_over_the_devices_that_there_are_unless_a_number_is_given(tmp_path, monkeypatch):
    (tmp_path / "x.yaml").write_text(SMALL)
    c = config.load(tmp_path / "x.yaml")
    assert c.mesh.particles == "auto"
    for there, expected in ((1, 1), (2, 2), (4, 3), (5, 3), (6, 6), (8, 6)):
        monkeypatch.setattr(jax, "devices", lambda there=there: list(range(there)))
        assert devices_of(c) == expected
    monkeypatch.undo()
    assert devices_of(config.load(tmp_path / "x.yaml", ["runtime.particle_chunk=2"])) == 3
    assert devices_of(config.load(tmp_path / "x.yaml", ["mesh.particles=2"])) == 2


@pytest.mark.parametrize("path", sorted((Path(__file__).parents[3] / "configs").glob("*.yaml")), ids=str)
def test_every_shipped_config_needs_one_device_and_takes_more(path):
    raw = config_file.read(path)
    assert raw.get("mesh", {}).get("particles", "auto") in ("auto", 1) and "members" not in raw.get(
        "mesh", {}
    )


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("runtime.compilation_cache=~nouser/x", "is in the home directory of a user that does not exist"),
        ("estimator.num_particles=1000000000", "must be <= 1000000 (value 1000000000)"),
        ("learned_optimizer={name: residual, hidden: 1000000000000}", "must be <= 16384"),
        ("tasks.0.stream={rows: 10000000000}", "must be <= 1000000 (value 10000000000)"),
        ("outer_steps=100000000000", "must be <= 1000000000 (value 100000000000)"),
        ("tasks.0={name: deep_linear, depth: 1000000}", "must be <= 200 (value 1000000)"),
        ("tasks.0={name: image_mlp, hidden: [" + "8, " * 300 + "]}", "must be a list of at most 200"),
    ],
)
def test_a_size_that_no_machine_has_is_refused_at_once(tmp_path, override, line):
    (tmp_path / "x.yaml").write_text(SMALL)
    with pytest.raises(ConfigError) as error:
        config.load(tmp_path / "x.yaml", [override])
    (found,) = str(error.value).splitlines()
    assert found.startswith("command line: " + override.partition("=")[0]) and line in found


def test_sizes_that_only_together_are_too_large_are_refused_before_anything_is_traced(tmp_path):
    (tmp_path / "x.yaml").write_text(SMALL)
    override = "tasks.0={name: image_mlp, hidden: [1000000, 1000000], datasets: ['digits[:100]']}"
    c = config.load(tmp_path / "x.yaml", [override])
    with pytest.raises(ConfigError, match="^estimator: the state of 6 particles and theta would take .* GiB"):
        assemble(c)


def test_an_artefact_of_a_hub_whose_package_is_missing_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    (tmp_path / "x.yaml").write_text(SMALL)
    with pytest.raises(ConfigError) as error:
        assemble(config.load(tmp_path / "x.yaml", ["init_from=hub:a/b"]))
    assert str(error.value) == "init_from: the hub needs huggingface_hub: pip install 'learned-opt[hub]'"


def test_what_no_config_can_hold_is_refused_in_one_line():
    circle = {"outer_steps": 1}
    circle["tasks"] = circle
    with pytest.raises(ConfigError, match="^cannot be written as JSON: Circular reference detected$"):
        config.parse(circle)
