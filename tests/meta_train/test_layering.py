"""Who may import whom."""

import subprocess
import sys

import pytest

# A module, and what importing it must not bring in.
FORBIDDEN = {
    "learned_opt": {"tasks", "meta_train"},
    "tasks": {"learned_opt", "meta_train"},
    "meta_train.system": {
        "learned_opt",
        "tasks",
        "meta_train.estimators",
        "meta_train.inner",
        "haiku",
        "optax",
    },
    "meta_train.estimators": {"learned_opt", "tasks", "meta_train.inner", "meta_train.outer", "haiku"},
    "meta_train.systems.toys": {"learned_opt", "tasks", "meta_train.estimators", "meta_train.inner", "haiku"},
    "meta_train.combine": {"learned_opt", "tasks", "meta_train.inner", "meta_train.outer", "haiku"},
    "meta_train.outer": {"learned_opt", "tasks", "meta_train.inner", "meta_train.combine", "haiku"},
    "meta_train.testing": {"learned_opt", "tasks", "meta_train.inner", "haiku", "pytest"},
}
HEAVY = {"tensorflow", "tensorflow_datasets", "torch", "wandb", "sklearn", "matplotlib", "gin"}


@pytest.fixture(scope="module")
def imported():
    """Module -> the names of all modules that importing it in a fresh interpreter loads."""

    def load(module):
        code = f"import sys, {module}; print(' '.join(sys.modules))"
        return set(
            subprocess.run(
                [sys.executable, "-c", code], capture_output=True, text=True, check=True
            ).stdout.split()
        )

    return {module: load(module) for module in FORBIDDEN}


@pytest.mark.parametrize("module", FORBIDDEN)
def test_a_module_imports_only_what_lies_below_it(imported, module):
    assert not imported[module] & (FORBIDDEN[module] | HEAVY)


def test_the_check_sees_an_import(imported):
    assert {"meta_train.system", "meta_train.estimators"} <= imported["meta_train.outer"]
