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
    monkeypatch.setattr(artefact, "_HOME", tmp_path / "pretrained")
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
    assert {"quickstart", "general", "general_v1"} <= set(NAMES)


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


def test_general_learns_clusters_within_a_hundred_steps_and_ends_with_a_small_validation_loss():
    """A network of 144-64-64-10 on ten clusters, 1,000 steps: steps that are too large reach a loss of 0
    early, leave it again (.3 on average, for hundreds of steps), and end with a validation loss above 2 (3.3
    for `general_v1`; .009 for AdamW at its best rate)."""
    centres = 0.6 * jax.random.normal(jax.random.key(0), (10, 144))

    def clusters(key, rows):
        key_class, key_noise = jax.random.split(key)
        y = jax.random.randint(key_class, (rows,), 0, 10)
        return centres[y] + jax.random.normal(key_noise, (rows, 144)), y

    train, valid = clusters(jax.random.key(1), 1000), clusters(jax.random.key(2), 1000)

    def loss(params, x, y):
        for layer in params[:-1]:
            x = jax.nn.relu(x @ layer["w"] + layer["b"])
        x = x @ params[-1]["w"] + params[-1]["b"]
        return optax.softmax_cross_entropy_with_integer_labels(x, y).mean()

    tx = learned_opt.load("pretrained:general", num_steps=1000)

    def step(carry, key):
        params, state = carry
        rows = jax.random.randint(key, (64,), 0, 1000)
        value, grads = jax.value_and_grad(loss)(params, train[0][rows], train[1][rows])
        updates, state = tx.update(grads, state, params, value=value)
        return (optax.apply_updates(params, updates), state), value

    params = [
        {"w": jax.random.normal(jax.random.key(10 + i), (a, b)) * (2 / a) ** 0.5, "b": jnp.zeros(b)}
        for i, (a, b) in enumerate(((144, 64), (64, 64), (64, 10)))
    ]
    keys = jax.random.split(jax.random.key(3), 1000)
    (params, _), losses = jax.jit(lambda p: jax.lax.scan(step, (p, tx.init(p)), keys))(params)
    assert losses[100:].reshape(9, 100).mean(1).max() < 0.03 and losses[-100:].max() < 1e-3
    assert loss(params, *valid) < 0.3


def test_the_packaged_optimizers_are_in_the_wheel():
    """What the wheel holds is what git knows of the packages: none of it may be ignored."""
    root = Path(learned_opt.__file__).parents[1]
    ignored = (root / ".gitignore").read_text().split()
    assert not [line for line in ignored if "pretrained" in line or "safetensors" in line or "json" in line]
    wheel = tomllib.loads((root / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert "learned_opt" in wheel["packages"] and not {"exclude", "only-include"} & set(wheel)
