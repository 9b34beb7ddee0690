"""Optimizers that come with the package, by name."""

import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt
from learned_opt.artefact import load as artefact


@pytest.fixture
def packaged(tmp_path, monkeypatch):
    """A package with one optimizer in it, and a directory that is none."""
    monkeypatch.setattr(artefact, "__file__", str(tmp_path / "artefact" / "load.py"))
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


NAMES = sorted(path.name for path in (Path(learned_opt.__file__).parent / "pretrained").iterdir())


def test_there_are_optimizers_in_the_package():
    assert {"quickstart", "general"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_packaged_optimizer_trains_a_regression_and_its_card_tells_what_it_is(name):
    x = jax.random.normal(jax.random.key(0), (64, 5))
    y = jnp.tanh(x @ jnp.arange(5.0))

    def loss(params):
        return jnp.mean((jnp.tanh(x @ params["w"] + params["b"]) - y) ** 2)

    tx = learned_opt.load(f"pretrained:{name}", num_steps=200)

    def step(carry, _):
        params, state = carry
        value, grads = jax.value_and_grad(loss)(params)
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    params = {"w": jnp.zeros(5), "b": jnp.zeros(())}
    _, losses = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), None, 200))(params)
    assert losses[-1] < 0.2 * losses[0]
    card = (Path(learned_opt.__file__).parent / "pretrained" / name / "README.md").read_text()
    for heading in ("## Use", "## Where it comes from", "## Meta-training", "## Evaluation"):
        assert heading in card
    assert f'learned_opt.load("pretrained:{name}"' in card and "ring B" in card


def test_the_packaged_optimizers_are_in_the_wheel():
    """What the wheel holds is what git knows of the packages: none of it may be ignored."""
    root = Path(learned_opt.__file__).parents[1]
    ignored = (root / ".gitignore").read_text().split()
    assert not [line for line in ignored if "pretrained" in line or "safetensors" in line or "json" in line]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "learned_opt" in wheel["packages"] and not {"exclude", "only-include"} & set(wheel)
