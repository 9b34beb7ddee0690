"""The quickstart's promise, in short: this takes minutes."""

import json
from pathlib import Path

import pytest

from meta_train import cli

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


@pytest.mark.slow
def test_the_short_quickstart_beats_tuned_adam_on_held_out_tasks(tmp_path, capsys):
    """One fixed seed, so no chance; the full run's figures for three seeds are in the README."""
    run = str(tmp_path / "run")
    # What the tests run on has four devices, the config asks for two.
    assert cli.command(["run", str(CONFIG), "outer_steps=3000", "--out", run]) == 0
    assert cli.command(["evaluate", run, "--cache", str(tmp_path / "baselines")]) == 0
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert figures["speed_up"]["mean"] >= 1.3, capsys.readouterr().out
    assert figures["divergence_rate"] == 0
