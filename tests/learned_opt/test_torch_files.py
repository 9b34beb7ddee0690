"""PyTorch's own files, read by PyTorch: `pytest -m torch`, where it is installed."""

import pickle
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from learned_opt import importers
from learned_opt.importers import ImportProblem

FILES = Path(__file__).parent / "golden" / "checkpoints"
pytestmark = pytest.mark.torch


@pytest.mark.parametrize(
    ("optimizer", "folder", "name"),
    [("ELO", "pylo_elo", "elo_theta"), ("ELO_CELO2", "pylo_elo_celo2", "celo2_theta")],
)
def test_a_state_dict_saved_by_torch_is_the_same_as_by_safetensors(optimizer, folder, name, tmp_path):
    settings = {"optimizer": optimizer, "lr": 0.1, "weight_decay": 0.1}
    shutil.copy(FILES / folder / f"{name}.pt", tmp_path)
    found = importers.read(tmp_path, **settings)
    expected = importers.read(FILES / folder / f"{name}.safetensors", **settings)
    assert found.options == expected.options
    for a, b in zip(jax.tree.leaves(found.theta), jax.tree.leaves(expected.theta), strict=True):
        np.testing.assert_array_equal(a, b, strict=True)


class Bomb:
    def __reduce__(self):
        return (Path.touch, (Path("exploded"),))


def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, monkeypatch):
    import torch

    monkeypatch.chdir(tmp_path)
    torch.save({"network.input.weight": Bomb()}, "a.pt")
    Path("b.pt").write_bytes(pickle.dumps(Bomb()))
    Path("c.pt").write_bytes((FILES / "pylo_elo" / "elo_theta.pt").read_bytes()[:-100])
    Path("d.pt").write_bytes(b"")
    for name in ("a.pt", "b.pt", "c.pt", "d.pt"):
        with pytest.raises(ImportProblem, match="is not unpickled: ") as error:
            importers.read(name, optimizer="ELO")
        assert "\n" not in str(error.value)
    assert not Path("exploded").exists()


def test_bfloat16_tensors_become_float32(tmp_path):
    import torch

    state = torch.load(FILES / "pylo_elo" / "elo_theta.pt", weights_only=True)
    torch.save({name: x.to(torch.bfloat16) for name, x in state.items()}, tmp_path / "half.pt")
    found = importers.read(tmp_path, optimizer="ELO", lr=0.1, weight_decay=0.0)
    expected = state["network.input.weight"].to(torch.bfloat16).to(torch.float32).numpy().T
    np.testing.assert_array_equal(found.theta["nn"]["~"]["w0"], expected)
