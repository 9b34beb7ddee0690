"""The versions, and the command line after `pip install .`, without the packages of the extra `train`."""

import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

import learned_opt
import meta_train
import tasks
from learned_opt.artefact.load import packaged_like
from meta_train.cli import main as cli

ROOT = Path(__file__).parents[3]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# The modules of the extra `train`, by the names that they are imported under.
HIDDEN = [re.match(r"[\w-]+", line)[0] for line in PROJECT["optional-dependencies"]["train"]]
IMPORTED = {"orbax-checkpoint": "orbax", "ruamel": "ruamel", "scikit-learn": "sklearn", "pillow": "PIL"}
PLAIN = f"""
import sys

class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {set(IMPORTED.get(name, name.replace("-", "_")) for name in HIDDEN)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Hidden())
from meta_train.cli import main
main.main()
"""


def plain(*words):
    """A command line in a process without the packages of `train`."""
    return subprocess.run([sys.executable, "-c", PLAIN, *words], capture_output=True, text=True)


@pytest.mark.parametrize(
    "words",
    [
        ("list", "tasks"),
        ("describe", "pes"),
        ("run", "configs/quickstart.yaml"),
        ("evaluate", "pretrained:general"),
        ("plot", "runs/mine"),
    ],
    ids=" ".join,
)
def test_without_the_extra_a_command_says_in_one_line_what_to_install(words):
    done = plain(*words)
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert re.fullmatch(
        r"meta-train: the package \w+ is not installed; this command needs it: "
        r"pip install 'learned-opt\[train\]'",
        line,
    )


def test_without_the_extra_the_version_and_the_help_are_printed():
    assert plain("--version").stdout == f"meta-train {meta_train.__version__}\n"
    assert "COMMAND" in plain("--help").stdout


def test_the_packages_have_the_version_that_is_installed(capsys):
    assert learned_opt.__version__ == tasks.__version__ == meta_train.__version__
    assert meta_train.__version__ == metadata.version("learned-opt")
    with pytest.raises(SystemExit):
        cli.command(["--version"])
    assert capsys.readouterr().out == f"meta-train {meta_train.__version__}\n"


@pytest.mark.parametrize("path", ["general", "genral", "general_v1"])
def test_the_name_of_a_packaged_optimizer_without_its_prefix_is_recognised(path):
    meant = {"genral": "general"}.get(path, path)
    assert packaged_like(path) == f"; did you mean pretrained:{meant}?"
    with pytest.raises(learned_opt.ArtefactError) as caught:
        learned_opt.load(path, num_steps=10)
    assert str(caught.value) == f"there is no directory {path}; did you mean pretrained:{meant}?"


def test_a_path_that_is_like_no_packaged_optimizer_gets_no_hint():
    assert packaged_like("runs/mine/optimizer") == ""


def test_evaluate_and_init_from_recognise_a_packaged_optimizer_too(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.command(["evaluate", "general"]) == 1
    assert capsys.readouterr().err.rstrip().endswith("did you mean pretrained:general?")
    quickstart = str(ROOT / "configs" / "quickstart.yaml")
    assert cli.command(["run", quickstart, "init_from=quickstart", "--dry-run"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("init_from: there is no such directory")
    assert "did you mean pretrained:quickstart?" in line
