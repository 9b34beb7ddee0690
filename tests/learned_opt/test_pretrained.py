"""Optimizers that come with the package, by name."""

import jax
import numpy as np
import pytest

import learned_opt
from learned_opt import artefact


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A package with one optimizer in it, and a directory that is none."""
    monkeypatch.setattr(artefact, "__file__", str(tmp_path / "artefact.py"))
    lopt = learned_opt.LEARNED_OPTIMIZERS["learnable_adam"]()
    theta = jax.device_get(lopt.init(jax.random.key(0)))
    learned_opt.save(
        tmp_path / "pretrained" / "small",
        name="learnable_adam",
        options={},
        theta=theta,
        horizon=None,
        provenance={},
    )
    (tmp_path / "pretrained" / "empty").mkdir()
    return theta


def test_a_packaged_optimizer_is_loaded_by_its_name(packaged):
    found = learned_opt.read("pretrained:small")
    jax.tree.map(np.testing.assert_array_equal, found.theta, packaged)
    params = {"w": np.ones(3, np.float32)}
    tx = learned_opt.load("pretrained:small", num_steps=10)
    updates, _ = tx.update(params, tx.init(params), params)
    assert (np.asarray(updates["w"]) < 0).all()


@pytest.mark.parametrize("name", ["large", "empty", "../pretrained/small", ""])
def test_another_name_is_refused_and_told_what_there_is(packaged, name):
    del packaged
    with pytest.raises(
        learned_opt.ArtefactError, match="is not among the packaged optimizers: small$"
    ) as error:
        learned_opt.load(f"pretrained:{name}", num_steps=10)
    assert "\n" not in str(error.value)
