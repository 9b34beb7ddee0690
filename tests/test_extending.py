"""The examples of docs/extending.md, pasted and registered, pass the contract tests as they stand."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
COPIED = ("learned_opt", "tasks", "meta_train", "reproductions", "benchmarks", "docs", "tests", "configs")
CONTRACTS = ("tests/test_tables.py", "tests/meta_train/estimators/test_contract.py")
CONTRACTS += ("tests/meta_train/estimators/test_estimator_style.py", "tests/tasks/test_family_contract.py")


def example(function):
    """The code block of the page that defines a function."""
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    (code,) = (
        code for code in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if f"def {function}(" in code
    )
    return code


def register(file, name, module, dictionary):
    """Adds an import and one line to the literal dictionary of a package."""
    text = file.read_text(encoding="utf-8")
    begin = re.search(rf"^{dictionary}\b.*= {{\n", text, re.M)
    assert begin
    text = text[: begin.end()] + f'    "{name}": {name},\n' + text[begin.end() :]
    first = re.search(r"^from (?:meta_train|tasks)", text, re.M)
    assert first
    file.write_text(
        text[: first.start()] + f"from {module} import {name}\n" + text[first.start() :], encoding="utf-8"
    )


@pytest.mark.slow
def test_the_examples_pasted_and_registered_pass_the_contract_tests(tmp_path):
    for name in (*COPIED, "pyproject.toml", "README.md", "CONTRIBUTING.md"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name)
    (tmp_path / "meta_train/estimators/forward_es.py").write_text(example("forward_es"), encoding="utf-8")
    register(
        tmp_path / "meta_train/estimators/__init__.py",
        "forward_es",
        "meta_train.estimators.forward_es",
        "ESTIMATORS",
    )
    (tmp_path / "tasks/families/line_fit.py").write_text(example("line_fit"), encoding="utf-8")
    register(tmp_path / "tasks/__init__.py", "line_fit", "tasks.families.line_fit", "TASKS")

    def run(*words):
        env = os.environ | {"PYTHONPATH": str(tmp_path)}
        done = subprocess.run(
            [sys.executable, "-m", *words], cwd=tmp_path, env=env, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        return done.stdout

    run("docs.make_tables")
    assert "forward_es" in (tmp_path / "docs/estimators.md").read_text(encoding="utf-8")
    assert "line_fit" in (tmp_path / "docs/tasks.md").read_text(encoding="utf-8")
    chosen = "forward_es or line_fit or up_to_date or has_a_claim"
    passed = run("pytest", "-q", *CONTRACTS, "-m", "slow or not slow", "-k", chosen)
    count = re.search(r"(\d+) passed", passed)
    assert count and int(count[1]) >= 15 and "failed" not in passed
