"""Every block of docs/recipes.md runs, trains, and hands the loss to the optimizer."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import learned_opt

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
SETUP, *_ = BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
MARKS = {
    "plain JAX": "def loss_fn(params, x, y)",
    "Haiku": "import haiku",
    "NNX": "nnx.Optimizer",
    "TrainState": "train_state.TrainState",
    "Equinox": "import equinox",
    "chain": "optax.clip_by_global_norm",
    "parts": "optax.multi_transform",
}


def demand_value():
    """Passes gradients on, and refuses a call without the loss."""

    def update(updates, state, params=None, *, value, **extra):
        assert jnp.shape(value) == ()
        return updates, state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


@pytest.fixture(scope="module")
def names(tmp_path_factory):
    """What the first block defines, with an optimizer that demands the loss."""
    directory = tmp_path_factory.mktemp("recipes")
    lopt = learned_opt.residual(hidden=2, initial_lr=0.02)
    learned_opt.save(
        directory / "runs/quickstart/optimizer",
        name="residual",
        options={"hidden": 2, "initial_lr": 0.02},
        theta=lopt.init(jax.random.key(0)),
        horizon=100,
        provenance={},
    )
    found = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(directory)
        exec(compile(SETUP, "recipes.md: setup", "exec"), found)
    return found | {"tx": optax.chain(demand_value(), found["tx"])}


def run(names, mark):
    """The one block that contains `mark`, executed."""
    (code,) = [block for block in BLOCKS[1:] if mark in block]
    names = dict(names)
    exec(compile(code, f"recipes.md: {mark}", "exec"), names)
    return names


def test_every_block_has_its_test():
    assert len(BLOCKS) == 1 + len(MARKS)


@pytest.mark.parametrize("recipe", MARKS)
def test_the_recipe_trains_and_passes_the_loss_on(names, recipe):
    done = run(names, MARKS[recipe])
    variance = float(jnp.mean(jnp.square(names["y"])))  # the loss of a model that says 0
    if recipe in ("chain", "parts"):  # linear models
        weights = jnp.linalg.lstsq(names["x"], names["y"])[0]
        best = float(jnp.mean(jnp.square(names["x"] @ weights - names["y"])))
        assert float(done["loss"]) - best < 0.02 * (variance - best)
    else:
        assert float(done["loss"]) < 0.05 * variance


def test_the_chain_clips_before_and_decays_after(names):
    """Half way through the warm-up: half of (the learned step on clipped gradients - 1e-4 p)."""
    done = run(names, MARKS["chain"])
    params, x, y = done["params"], done["x"], 100 * done["y"]
    clip, learned, decay, _ = done["state"]
    grads = jax.grad(lambda p: jnp.mean((x @ p["w"] - y) ** 2))(params)
    assert float(optax.tree.norm(grads)) > 10
    clipped = jax.tree.map(lambda g: g / optax.tree.norm(grads), grads)
    step, _ = names["tx"].update(clipped, learned, params, value=jnp.float32(1))
    state = (clip, learned, decay, optax.ScaleByScheduleState(jnp.int32(5)))
    got, _ = done["tx"].update(grads, state, params, value=jnp.float32(1))
    np.testing.assert_allclose(got["w"], 0.5 * (step["w"] - 1e-4 * params["w"]), rtol=1e-4)
