"""The rules of CONTRIBUTING.md about the shape of the code and of the pages, each kept by a test.

An exception to a rule is listed here by name.
"""

import ast
import re
import traceback
from collections import defaultdict
from pathlib import Path

import jax
import jax.numpy as jnp
import optax
import pytest

import learned_opt
from meta_train.core.outer import make_outer_step
from meta_train.estimators import ESTIMATORS
from meta_train.inner import inner_training
from tasks import Task, TaskFamily

ROOT = Path(__file__).parents[1]
SOURCE = ("learned_opt", "tasks", "meta_train")
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def name_of(path):
    """A path as it is written in the lists of this file."""
    return path.relative_to(ROOT).as_posix()


def files(*packages):
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


TREES = {
    name_of(path): ast.parse(path.read_text(encoding="utf-8"))
    for path in files(*SOURCE, "reproductions", "benchmarks", "docs")
}


def users(*names, within=SOURCE):
    """The files in which one of the names is used, alone or as an attribute (`jax.jit`)."""
    found = set()
    for file, tree in TREES.items():
        if file.startswith(within):
            for node in ast.walk(tree):
                if getattr(node, "attr", getattr(node, "id", None)) in names:
                    found.add(file)
    return found


# Where a function is compiled, and what for.
JIT = {
    "learned_opt/promises.py": "short trainings with a learned optimizer that is checked",
    "tasks/contract.py": "short trainings of a task family that is checked",
    "learned_opt/torch/cohort.py": "the update of an optimizer of PyTorch, and its first state",
    "meta_train/core/outer.py": "the outer step",
    "meta_train/core/rotation.py": "the outer step of families that take turns",
    "meta_train/core/stream.py": "the buffer of a stream, refreshed between outer steps",
    "meta_train/diagnose/gradient_statistics.py": "gradients at a fixed theta",
    "meta_train/evaluation/cache.py": "a program's text is lowered for its digest, not run",
    "meta_train/evaluation/curves.py": "a whole training",
    "meta_train/population/engine.py": "a round of a population",
    "meta_train/run/experiment.py": "theta before a run",
    "meta_train/run/train.py": "the first state of a run",
    "meta_train/testing/conformance.py": "gradients of an estimator that is checked",
    "meta_train/testing/episodes.py": "the same, window by window",
    "meta_train/testing/loop.py": "the same, particle by particle",
}


def test_functions_are_compiled_in_the_listed_places_only():
    assert users("jit") <= set(JIT)


def test_particles_are_split_over_devices_in_two_places_and_never_by_pmap():
    assert users("shard_map") == {"meta_train/core/devices.py", "meta_train/population/engine.py"}
    assert not users("pmap")


# Where core and estimators look at whether something is finite: one place for losses, the rest for gradients.
NOT_FINITE = {
    "meta_train/core/system.py": "a loss counts as `worst_loss`, and the particle restarts",
    "meta_train/core/estimator.py": "a pathwise gradient counts as zero, and the particle restarts",
    "meta_train/estimators/dodge.py": "a directional derivative, likewise",
    "meta_train/estimators/guided_es.py": "a surrogate gradient guides nothing",
    "meta_train/estimators/pes_analytic.py": "falls back on PES",
    "meta_train/estimators/reparam.py": "the mix leaves backpropagation out",
}


def test_what_is_not_finite_is_handled_in_the_listed_places_only():
    within = ("meta_train/core", "meta_train/estimators", "meta_train/inner.py")
    assert users("isfinite", "isnan", "isinf", "nan_to_num", "nanmean", within=within) <= set(NOT_FINITE)


# What knows both task families and learned optimizers beside the bridge, and why.
BOTH = {
    "meta_train/inner.py": "the bridge: makes a system of both",
    "meta_train/cli/check.py": "finds out which of the two a factory makes",
    "meta_train/cli/main.py": "catches errors of artefacts, and recognises a foreign module `tasks`",
    "meta_train/cli/sources.py": "reads a source for the evaluation",
    "meta_train/config/checks.py": "builds both without compiling, to check a config",
    "meta_train/population/meta_training.py": "a member is a meta-training",
    "meta_train/population/scoring.py": "the fitness of a meta-training",
    "meta_train/run/experiment.py": "makes the objects of a run from its config",
}


def packages(tree):
    """The top-level packages that a file imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)


def test_few_files_import_tasks_and_learned_optimizers_and_one_joins_them():
    found = {
        file
        for file, tree in TREES.items()
        if file.startswith("meta_train") and {"learned_opt", "tasks"} <= set(packages(tree))
    }
    assert found <= set(BOTH)
    # Systems for tests of estimators apart, `inner.py` alone makes a system that runs: the one that
    # config/checks.py makes raises, and serves to check the options of an estimator.
    makers = {
        file
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", None) == "UnrolledSystem"
    }
    outside = ("reproductions", "benchmarks", "docs", "meta_train/testing", "meta_train/config/checks.py")
    assert {file for file in makers if not file.startswith(outside)} == {"meta_train/inner.py"}


# Names that a library may change without notice, and names that it says it will remove.
LIBRARIES = {"jax", "jaxlib", "optax", "haiku", "orbax", "torch"}
DEPRECATED = {
    "jax.core",
    "jax.interpreters",
    "jax.experimental.maps",
    "jax.experimental.pjit",
    "optax.global_norm",
    "jax.extend.core.ClosedJaxpr.jaxpr",
}


def private_names(tree):
    """The private and the deprecated names of LIBRARIES that a file imports or uses."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        else:
            names = [ast.unparse(node)] if isinstance(node, ast.Attribute) else []
            # A closed jaxpr has all that a jaxpr has; a traced function alone has one.
            legacy = re.search(r"(?<!traced)\.jaxpr$", "".join(names))
            names = ["jax.extend.core.ClosedJaxpr.jaxpr"] if legacy else names
        for name in names:
            library, *rest = name.split(".")
            private = any(part.startswith("_") and not part.startswith("__") for part in rest)
            if library in LIBRARIES and (private or name in DEPRECATED):
                yield name


def test_private_and_deprecated_names_of_libraries_are_used_nowhere():
    assert not {file: names for file, tree in TREES.items() if (names := list(private_names(tree)))}


class Reached(Exception):
    """Raised by the loss of the task below."""


def reach(name):
    """The frames of this project that an outer step passes through on its way to the task's loss."""

    def loss(params, key, data):
        raise Reached

    def task(cfg):
        return Task(lambda key: {"w": jnp.zeros(2)}, loss)

    family = TaskFamily(lambda key: (), task, {"train": (), "valid": ()})
    lopt = learned_opt.learnable_sgd()
    system = inner_training(family, lopt, unroll_length=4)
    option = {} if name in ("full_es", "bptt") else {"truncation_length": 2}
    estimator = ESTIMATORS[name](system, num_particles=2, **option)
    outer = make_outer_step(lopt.init, estimator, optax.sgd(0.1))
    state = outer.init(jax.random.key(0))
    with pytest.raises(Reached) as caught:
        outer.step(state, family.data)
    frames = traceback.extract_tb(caught.tb)
    return [frame for frame in frames if Path(frame.filename).is_relative_to(ROOT / "meta_train")]


@pytest.mark.parametrize(
    ("name", "rule"), [("pes", "gpes"), ("truncated_es", "truncated_es"), ("tbptt", "tbptt")]
)
def test_a_gradient_passes_through_six_files(name, rule):
    """Five of the project, and the task's own: read from the traceback of a loss that raises."""
    frames = reach(name)
    passed = list(
        dict.fromkeys(name_of(Path(frame.filename)).removeprefix("meta_train/") for frame in frames)
    )
    rules = f"estimators/{rule}.py"
    assert passed == ["core/outer.py", "core/estimator.py", rules, "core/system.py", "inner.py"]
    assert len(frames) <= 9


# Files over 300 lines.
LONG_FILES = {"benchmarks/floors.py"}


def test_no_file_is_over_300_lines():
    long = {file for file in TREES if len((ROOT / file).read_text(encoding="utf-8").splitlines()) > 300}
    assert long <= LONG_FILES


# Functions over 60 lines.
LONG_FUNCTIONS = {
    "benchmarks/floors.py:adafac_mlp",
    "learned_opt/architectures/spectral.py:spectral",
}


def lines_of(function):
    """The lines of a function, nested ones included, its docstring not."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        lines -= function.body[0].end_lineno - function.body[0].lineno + 1
    return lines


def test_no_function_is_over_60_lines():
    functions = {
        f"{file}:{node.name}": lines_of(node)
        for file, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef)
    }
    assert {name for name, lines in functions.items() if lines > 60} <= LONG_FUNCTIONS


# One file name in several rooms. A command (cli/NAME.py) has the name of what it runs.
SAME_NAME = {
    "base.py": "the types of a package",
    "celo.py": "Celo's architecture, and the importer of Celo's weights",
    "contract.py": "certifies a learned optimizer, a task family",
    "files.py": "reads and writes the files of a checkpoint, of an evaluation",
    "format.py": "the files of an artefact, those of a checkpoint",
    "load.py": "reads an artefact, reads a config",
    "report.py": "tables and pictures of a result",
    "run.py": "a run of one training, of a population",
    "supervised.py": "supervised learning, as a family and as a population's trainer",
    "toys.py": "small problems with known answers",
}


def test_two_rooms_share_a_file_name_only_where_it_means_the_same():
    places = defaultdict(list)
    for path in files(*SOURCE):
        if path.name not in ("__init__.py", "__main__.py") and path.parent.name != "cli":
            places[path.name].append(name_of(path))
    assert {name for name, found in places.items() if len(found) > 1} <= set(SAME_NAME)


def prose(text):
    """(line number, line) of a page, code blocks left out."""
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("```"):
            code = not code
        elif not code:
            yield number, line


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_line_of_prose_is_under_120_characters(page):
    lines = prose(page.read_text(encoding="utf-8"))
    assert not [(n, line) for n, line in lines if len(line) >= 120 and not line.startswith(("|", "!["))]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_table_has_at_most_seven_columns(page):
    for number, line in prose(page.read_text(encoding="utf-8")):
        if line.startswith("|"):
            assert len(re.findall(r"(?<!\\)\|", line)) <= 8, number


# Words that say in a private way what the field has a word for, or that leave a sentence half said.
BANNED = re.compile(
    r"\b(?:told|beside|anew|hangs? on|talks?|somebody|feeds|hear|heard|forgets?|judges?|judged|departs?"
    r"|arrives?|what is there|home ring|home family|home network|comes? along|dealt with)\b",
    re.IGNORECASE,
)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_has_no_private_vocabulary(page):
    for number, line in prose(page.read_text(encoding="utf-8")):
        assert not BANNED.search(line), number


def test_the_checks_see_what_they_look_for():
    assert BANNED.search("The optimizer is told the horizon.") and not BANNED.search("besides")
    assert list(prose("a\n```\nb\n```\nc")) == [(1, "a"), (5, "c")]
    (function,) = ast.parse('def f():\n    """Doc.\n\n    More.\n    """\n    return 1\n').body
    assert lines_of(function) == 2
    assert "meta_train/core/devices.py" in users("shard_map")
    code = "from jax._src import core\nimport jax.core\nx = optax.global_norm(jax.__version__), closed.jaxpr"
    legacy = "jax.extend.core.ClosedJaxpr.jaxpr"
    found = sorted(private_names(ast.parse(code)))
    assert found == ["jax._src.core", "jax.core", legacy, "optax.global_norm"]
    assert not any(private_names(ast.parse("traced.jaxpr.consts")))
