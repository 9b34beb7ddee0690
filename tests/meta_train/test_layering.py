"""Who may import whom, room by room: the rule of CONTRIBUTING.md."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("learned_opt", "tasks", "meta_train")

# Each room of meta_train, and the rooms that it may import.
ROOMS = {
    "errors": set(),
    "core": {"errors"},
    "estimators": {"errors", "core"},
    "testing": {"errors", "core", "estimators"},
    "config": {"errors", "core", "estimators"},
    "parallel": {"errors"},
    "checkpoint": {"errors", "parallel"},
    "inner": {"errors", "core"},
    "evaluation": {"errors"},
}
ROOMS["run"] = set(ROOMS)
ROOMS["diagnose"] = ROOMS["population"] = ROOMS["run"] | {"run"}
ROOMS["cli"] = ROOMS["population"] | {"diagnose", "population"}
ROOMS["__main__"] = {"cli"}
ROOMS["__init__"] = set(ROOMS)  # the public face, which imports on first use

# Rooms that know nothing of learned optimizers and tasks.
ABSTRACT = {"errors", "core", "estimators", "testing", "parallel"}
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "wandb", "sklearn", "matplotlib", "gin"}


def imports(path):
    """The modules that a file names in its import statements, those inside of functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)


def room(path):
    """The room of a file of meta_train: its folder, or its own name if it lies at the top."""
    return path.relative_to(ROOT / "meta_train").parts[0].removesuffix(".py")


FILES = sorted((ROOT / "meta_train").rglob("*.py"))


def test_every_file_lies_in_a_room():
    assert {room(path) for path in FILES} == set(ROOMS)


@pytest.mark.parametrize("name", ROOMS)
def test_a_room_imports_only_rooms_below_it(name):
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in FILES
        if room(path) == name
        for package, _, rest in [module.partition(".") for module in imports(path)]
        for module in [f"{package}.{rest}"]
        if package == "meta_train" and rest and rest.split(".")[0] not in ROOMS[name] | {name}
    ]
    assert not wrong


@pytest.mark.parametrize("name", sorted(ABSTRACT))
def test_an_abstract_room_knows_neither_optimizers_nor_tasks(name):
    for path in FILES:
        if room(path) == name:
            assert not {module.split(".")[0] for module in imports(path)} & {"learned_opt", "tasks", "haiku"}


def test_optimizers_and_tasks_know_nothing_of_each_other_or_of_meta_training():
    for package, others in {
        "learned_opt": {"tasks", "meta_train"},
        "tasks": {"learned_opt", "meta_train"},
    }.items():
        for path in (ROOT / package).rglob("*.py"):
            assert not {module.split(".")[0] for module in imports(path)} & others, path


def graph():
    """File -> the files that it imports, of the three packages."""
    names = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
    }
    edges = {}
    for path in names.values():
        found = {names.get(module, names.get(module.rpartition(".")[0])) for module in imports(path)}
        edges[path] = {other for other in found if other not in (None, path)}
    return edges


def test_no_file_imports_itself_by_way_of_others():
    edges, finished, open_ = graph(), set(), []

    def visit(path):
        assert path not in open_, " -> ".join(str(p.relative_to(ROOT)) for p in [*open_, path])
        if path in finished:
            return
        open_.append(path)
        for other in sorted(edges[path]):
            visit(other)
        open_.pop()
        finished.add(path)

    for path in sorted(edges):
        visit(path)


@pytest.fixture(scope="module")
def loaded():
    """Module -> the modules that importing it in a fresh interpreter loads."""
    found = {}

    def load(module):
        if module not in found:
            code = f"import sys, {module}; print(' '.join(sys.modules))"
            done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
            found[module] = set(done.stdout.split())
        return found[module]

    return load


@pytest.mark.parametrize(
    ("module", "most"),
    [("meta_train.parallel.hosts", 5), ("meta_train.population.pbt", 12), ("meta_train", 1)],
)
def test_a_module_loads_few_others(loaded, module, most):
    ours = {name for name in loaded(module) if name.split(".")[0] == "meta_train"}
    assert len(ours) <= most, sorted(ours)


@pytest.mark.parametrize("module", ["learned_opt", "tasks", "meta_train.run.train", "meta_train.cli.main"])
def test_nothing_heavy_is_loaded_before_it_is_needed(loaded, module):
    assert not loaded(module) & HEAVY


def test_the_checks_see_an_import(loaded):
    assert "meta_train.core.estimator" in loaded("meta_train.core.outer")
    core = ROOT / "meta_train" / "core"
    assert core / "perturb.py" in graph()[core / "outer.py"]
