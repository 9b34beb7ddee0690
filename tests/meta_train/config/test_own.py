"""Pieces of one's own in a config: how they are found, and the one line that each mistake gets."""

import sys
import textwrap
from importlib import metadata
from pathlib import Path

import pytest

from meta_train.config import load as config_lib
from meta_train.config.own import Kind, Open, find
from meta_train.config.places import names, placed, portable
from meta_train.errors import ConfigError, PieceError
from meta_train.run.experiment import assemble
from meta_train.run.provenance import files_of
from tasks import TASKS, TaskFamily

FILE = '''
from tasks.families.quadratic import quadratic

SIZE = 3


def bowl(*, dim: int = 3):
    """A quadratic by another name."""
    return quadratic(dim=dim)


def number():
    return 3


def positional(dim=3):
    return quadratic(dim=dim)


def untyped(*, dim=3):
    return quadratic(dim=dim)


def anything(**options):
    return quadratic(**options)


def unheard(*, dim: "Nothing" = 3):
    return quadratic(dim=dim)


def strange(*, dim: complex.__add__ = 3):
    return quadratic(dim=dim)


def refuses(*, dim: int = 3):
    raise ValueError("dim must be odd, got 3")


def fails():
    return [][1]


def two(system, family):
    return system
'''
CONFIG = """
outer_steps: 4
tasks: [{name: "own/mine.py:bowl", dim: 2}]
learned_optimizer: {name: learnable_sgd}
inner: {unroll_length: 4}
estimator: {name: pes, num_particles: 2, truncation_length: 2}
outer_optimizer: {learning_rate: 0.01}
"""


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A config in a directory that is not the current one, next to a file of tasks."""
    (tmp_path / "project" / "own").mkdir(parents=True)
    (tmp_path / "project" / "own" / "mine.py").write_text(FILE)
    (tmp_path / "project" / "run.yaml").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "project" / "run.yaml"


def line(path, *overrides):
    """The only line that a config is refused with."""
    with pytest.raises(ConfigError) as error:
        config_lib.load(path, overrides)
    (text,) = str(error.value).splitlines()
    return text


def test_a_path_is_relative_to_the_config_and_absolute_in_what_is_saved(config):
    found = config_lib.load(config)
    name = f"{config.parent / 'own' / 'mine.py'}:bowl"
    assert config_lib.resolved(found)["tasks"][0]["name"] == name
    assert config_lib.parse(config_lib.resolved(found)) == found
    assert found.tasks[0].label == "bowl"
    assert assemble(found).families["bowl"].data is not None


def test_a_path_in_an_override_or_a_dict_is_relative_to_the_current_directory(config):
    found = config_lib.load(config, ["tasks.0.name=project/own/mine.py:bowl"])
    assert found == config_lib.load(config)
    raw = config_lib.resolved(found)
    raw["tasks"][0]["name"] = "project/own/mine.py:bowl"
    assert config_lib.parse(raw) == found


def test_options_are_checked_as_those_of_the_project_are(config):
    assert line(config, "tasks.0.dim=x").endswith('tasks.0.dim: must be a whole number (value "x")')
    assert "unknown option" in line(config, "tasks.0.size=2")
    assert "did you mean dim?" in line(config, "tasks.0.dimm=2")


def test_a_new_name_drops_the_options_that_its_factory_does_not_have(config):
    found = config_lib.load(config, ["tasks.0.name=quadratic_10"])
    assert found.tasks[0].spec["dim"] == 2  # both have it
    assert config_lib.load(config, ["estimator.name=full_es"]).estimator["num_particles"] == 2


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "own/mine.py",
            "own/mine.py is neither a known name nor of the form PACKAGE.MODULE:FACTORY or FILE.py",
        ),
        ("package.tasks.bowl", "package.tasks.bowl is neither a known name nor of the form"),
        ("bowl", "unknown name"),
        ("own/mine.py:", "must be of the form"),
        (":bowl", "must be of the form"),
        ("own/mine.py:bowll", "has no bowll; did you mean bowl? allowed: anything, bowl"),
        ("own/mine.py:SIZE", "is no factory: it is of the type int"),
        ("own/mine.py:positional", "takes dim as a positional argument: put it after a *"),
        ("own/mine.py:untyped", "option dim has no type"),
        ("own/mine.py:anything", "takes any options (**): name each of them, with its type"),
        (
            "own/mine.py:unheard",
            "has a signature that cannot be read: NameError: name 'Nothing' is not defined",
        ),
        ("own/mine.py:strange", "has options that no config can give"),
        ("own/mine.py:number", "must return a TaskFamily, got int"),
        ("own/mine.py:fails", "fails: IndexError: list index out of range (mine.py, line 41)"),
        ("own/mine.py:refuses", "tasks.0.dim: must be odd, got 3"),
        ("own/mine.py:two", "takes system as a positional argument"),
        ("own/nothing.py:bowl", "own/nothing.py cannot be read: No such file or directory"),
        ("nothing_here.tasks:bowl", "there is no module nothing_here.tasks: install its package"),
    ],
)
def test_each_mistake_in_a_name_is_one_line(config, name, words):
    config.write_text(CONFIG.replace("own/mine.py:bowl", name).replace(", dim: 2", ""))
    text = line(config)
    assert words in text and text.startswith(f"{config}: tasks.0")


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import nothing_here", "ModuleNotFoundError: No module named 'nothing_here' (mine.py, line 1)"),
        ("x = 1\n1 / 0", "ZeroDivisionError: division by zero (mine.py, line 2)"),
        ("x = 1\ndef f(:\n  pass", "SyntaxError: invalid syntax (mine.py, line 2)"),
        ("import sys\nsys.exit('never')", "SystemExit: never (mine.py, line 2)"),
        ("raise ValueError('two\\nlines')", "ValueError: two lines (mine.py, line 1)"),
    ],
)
def test_an_error_inside_the_file_is_one_line_with_its_place(config, code, words):
    (config.parent / "own" / "mine.py").write_text(code)
    assert f"mine.py cannot be loaded: {words}" in line(config)


def test_an_estimator_must_take_the_system(config):
    assert "must take system as a positional argument" in line(
        config, "estimator.name=project/own/mine.py:number"
    )


def test_what_an_estimator_s_or_an_optimizer_s_factory_returns_is_checked(config):
    (config.parent / "own" / "more.py").write_text(
        "def es(system, *, num_particles: int = 2):\n    return 3\n\n\ndef lopt():\n    return {}\n"
        "\n\ndef outer(outer_steps):\n    return 1\n\n\ndef more(family):\n    return family.data\n"
    )
    for override, kind in {
        "estimator.name=project/own/more.py:es": "a GradientEstimator, got int",
        "learned_optimizer.name=project/own/more.py:lopt": "a LearnedOptimizer, got dict",
        "outer_optimizer.name=project/own/more.py:outer": "a GradientTransformation, got int",
    }.items():
        assert f"must return {kind}" in line(config, override)


def test_a_file_that_changes_is_loaded_again(config):
    assert config_lib.load(config).tasks[0].spec["dim"] == 2
    file = config.parent / "own" / "mine.py"
    file.write_text(FILE.replace("dim: int = 3", "size: int = 3"))
    assert "unknown option" in line(config)


def test_a_dataclass_and_quoted_types_work_in_a_file(config):
    text = """
    from __future__ import annotations

    import dataclasses

    from tasks.families.quadratic import quadratic


    @dataclasses.dataclass
    class Shape:
        dim: int


    def bowl(*, dim: int = 3):
        return quadratic(dim=Shape(dim).dim)
    """
    (config.parent / "own" / "mine.py").write_text(textwrap.dedent(text))
    assert config_lib.load(config).tasks[0].spec["dim"] == 2


class Points:
    """Entry points of packages that are not installed."""

    def __init__(self, *points):
        self.points = points

    def __call__(self, *, group):
        return [point for point in self.points if point.group == group]


def test_an_entry_point_is_a_name_and_one_of_the_project_prevails(config, monkeypatch):
    (config.parent / "my_points.py").write_text(FILE)
    monkeypatch.syspath_prepend(config.parent)
    points = [("bowl", "my_points:bowl"), ("quadratic", "my_points:number"), ("broken", "my_points:nothing")]
    found = [metadata.EntryPoint(name, value, "meta_train.tasks") for name, value in points]
    monkeypatch.setattr(metadata, "entry_points", Points(*found))
    loaded = config_lib.load(config, ["tasks.0.name=bowl"])
    assert loaded.tasks[0].name == "bowl" and loaded.tasks[0].spec["dim"] == 2
    registry = Open(Kind("tasks", TaskFamily), TASKS)
    assert registry["quadratic"] is TASKS["quadratic"]
    assert "bowl" in registry and "broken" not in registry and list(registry).count("quadratic") == 1
    assert "my_points has no nothing" in line(config, "tasks.0.name=broken")
    assert "did you mean bowl?" in line(config, "tasks.0.name=bowll")
    again = metadata.EntryPoint("bowl", "my_points:two", "meta_train.tasks")
    monkeypatch.setattr(metadata, "entry_points", Points(*found, again))
    assert "is of several packages: write one of my_points:bowl, my_points:two" in line(
        config, "tasks.0.name=bowl"
    )


def test_a_module_is_named_with_dots_and_its_sources_are_what_it_imports_of_its_package(
    tmp_path, monkeypatch
):
    package = tmp_path / "my_sources"
    (package / "deep").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    (package / "deep" / "__init__.py").write_text("from ..shared import SIZE\n")
    (package / "shared.py").write_text("SIZE = 3\n")
    (package / "apart.py").write_text("1 / 0\n")
    code = "import jax\nfrom tasks.families.quadratic import quadratic\n\nfrom . import deep\n"
    (package / "tasks.py").write_text(
        f"{code}\n\ndef bowl(*, dim: int = deep.SIZE):\n    return quadratic(dim=dim)\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    family = find(Kind("tasks", TaskFamily), "my_sources.tasks:bowl")()
    assert isinstance(family, TaskFamily)
    found = files_of("my_sources.tasks:bowl", ("tasks", 0))
    assert set(found) == {"my_sources", "my_sources.tasks", "my_sources.deep", "my_sources.shared"}
    assert all(file.is_relative_to(package) for file in found.values())
    with pytest.raises(
        PieceError, match=r"the module my_sources.apart cannot be imported: ZeroDivisionError"
    ):
        find(Kind("tasks", TaskFamily), "my_sources.apart:bowl")
    assert files_of("pes", ("estimator",)) is None


def test_names_are_found_where_components_stand_and_nowhere_else():
    raw = {
        "tasks": [{"name": "a.py:f", "augment": [{"name": "b.py:g"}]}],
        "logging": {"wandb": {"name": "c.py:h"}},
        "trainer": {"name": "meta_training", "config": {"estimator": {"name": "m:e"}}},
    }
    assert [name for _, name in names(raw)] == ["a.py:f", "b.py:g", "meta_training", "m:e"]
    there = placed(raw, Path("/x/y"))
    assert there["tasks"][0]["augment"][0]["name"] == "/x/y/b.py:g"
    assert there["logging"] == raw["logging"] and there["trainer"] == raw["trainer"]
    assert portable(there) == raw


def test_modules_of_files_do_not_replace_those_of_others(config):
    (config.parent / "own" / "mine.py").rename(config.parent / "own" / "jax.py")
    import jax

    assert config_lib.load(config, ["tasks.0.name=project/own/jax.py:bowl"]).tasks[0].label == "bowl"
    assert sys.modules["jax"] is jax
