"""What a release consists of: one version, and files that are the same wherever they are built."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCKS = sorted((ROOT / "requirements").glob("*.txt"))


def test_the_version_is_the_same_everywhere():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert re.findall(r"^version: (.*)$", citation, re.MULTILINE) == [PROJECT["version"]]
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\n## {PROJECT['version']}\n" in changes


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.stem)
def test_a_lock_file_has_exact_versions_of_what_the_project_needs_and_no_host(lock):
    first, *lines = lock.read_text(encoding="utf-8").splitlines()
    assert first.startswith("# Written by: python scripts/lock.py")
    versions = dict(line.split("==") for line in lines)
    assert all(re.fullmatch(r"[a-z0-9.-]+==[\w.+!]+", line) for line in lines)
    assert {re.split(r"[\[>=<]", need)[0] for need in PROJECT["dependencies"]} <= set(versions)
    if lock.stem.endswith("oldest"):
        assert f"jax>={versions['jax']}" in PROJECT["dependencies"]


@pytest.mark.slow
def test_two_builds_are_equal_and_the_wheel_works_in_an_empty_environment(tmp_path):
    sums = []
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True)
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        command = [
            sys.executable,
            str(ROOT / "scripts" / "build.py"),
            str(tmp_path / name),
            done.stdout.strip(),
        ]
        sums.append(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    assert sums[0] == sums[1] and len(sums[0].splitlines()) == 2
    (wheel,), (sdist,) = ((tmp_path / "one").glob(pattern) for pattern in ("*.whl", "*.tar.gz"))
    with zipfile.ZipFile(wheel) as archive:
        assert "learned_opt/pretrained/general/theta.safetensors" in archive.namelist()
    with tarfile.open(sdist) as archive:
        assert any(name.endswith("/pyproject.toml") for name in archive.getnames())
    environment = tmp_path / "environment"
    subprocess.run([sys.executable, "-m", "venv", environment], check=True)
    python = environment / "bin" / "python"
    subprocess.run([python, "-m", "pip", "install", "--quiet", wheel], check=True)
    code = (
        "import learned_opt, jax.numpy as jnp; p = {'w': jnp.ones((3, 2))}; "
        "tx = learned_opt.load('pretrained:general', num_steps=500); "
        "u, _ = tx.update(p, tx.init(p), p); print(bool((u['w'] < 0).all()))"
    )
    done = subprocess.run([python, "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "True"
