"""Each architecture gives the updates of the code it comes from: parameters after each of 6 updates.

golden/*.json were recorded from the original public implementations (google/learned_optimization,
celo) in float32, with the parameters, gradients, losses and meta-parameters defined here.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from learned_opt import LEARNED_OPTIMIZERS

GOLDEN = Path(__file__).parent / "golden"
SHAPES = {"b": (4,), "k": (2, 3, 4), "s": (), "w": (3, 4)}

STAR = {
    "step_mult": 0.01,
    "exp_mult": (0.1, 0.1, 0.1),
    "nominal_step": 0.001,
    "weight_decay": 0.1,
    "nominal_controller": True,
    "regularization_controller": True,
    "normalize_blackbox": True,
    "aggregate_magnitude": True,
    "aggregate_nominal_magnitude": True,
}
VELO = {"lstm_hidden": 8, "bank": 4, "step_mult": 0.003, "exp_mult": 0.1}

# golden file -> (architecture, its options, whether theta is filled with `filled` or left at its init)
CASES = {
    "learnable_sgdm": ("learnable_sgdm", {"initial_lr": 0.01}, False),
    "learnable_adam": ("learnable_adam", {"initial_lr": 0.01}, False),
    "mlp_lopt": ("per_param_mlp", {"step_mult": 0.1, "exp_mult": 0.1}, True),
    "adafac_h4": ("adafac_mlp", {"step_mult": 0.1, "exp_mult": 0.1}, True),
    "adafac_h32": ("adafac_mlp", {"hidden": 32, "step_mult": 0.1, "exp_mult": 0.1}, True),
    "nominal_default": ("mlp_nominal", {"step_mult": 0.1, "exp_mult": (0.1, 0.1, 0.1)}, True),
    "nominal_star": ("mlp_nominal", STAR, True),
    "celo2_base": ("celo2", {"orthogonalise": False, "learning_rate": 0.01}, True),
    "celo2_ns": ("celo2", {"learning_rate": 0.01}, True),
    "hyperv2_small": ("velo", VELO, True),
    "hyperv2_small_buggedloss": ("velo", {**VELO, "bugged_loss_features": True}, True),
    "celo_phase1": ("celo", {"phase": 1, "lstm_hidden": 8, "step_mult": 0.1, "exp_mult": 0.1}, True),
    "celo_phase2": ("celo", {"phase": 2, "lstm_hidden": 8, "step_mult": 1.0, "exp_mult": 0.1}, True),
    "nn_adam": ("nn_adam", {"initial_lr": 0.01}, True),
    "nn_adam_decay": ("nn_adam", {"initial_lr": 0.01, "decay_strength": 0.1}, True),
    "rnn_mlp": ("rnn_mlp", {"step_mult": 0.1, "exp_mult": 0.1}, True),
}


def params0():
    return {
        k: jnp.asarray((0.5 * np.cos(0.9 * np.arange(np.prod(s)) + i)).reshape(s), jnp.float32)
        for i, (k, s) in enumerate(SHAPES.items())
    }


def grads(t):
    return {
        k: jnp.asarray(
            (0.2 * np.sin(0.7 * np.arange(np.prod(s)) + 0.5 * i + 1.3 * t) + 0.01 * t).reshape(s), jnp.float32
        )
        for i, (k, s) in enumerate(SHAPES.items())
    }


def loss(t):
    return 1.5 + 0.7 * np.sin(2.3 * t) + 0.1 * t


def filled(theta, amplitude):
    """A deterministic theta. NNAdam's initial hyperparameters stay what they are."""
    leaves, tree = jax.tree_util.tree_flatten_with_path(theta)

    def value(i, path, x):
        if "per_layer" in jax.tree_util.keystr(path):
            return x
        return jnp.asarray(
            (amplitude * np.sin(1.7 * i + 0.37 * np.arange(x.size) + 0.2)).reshape(x.shape), x.dtype
        )

    return tree.unflatten([value(i, path, x) for i, (path, x) in enumerate(leaves)])


@pytest.mark.parametrize("case", CASES)
def test_the_parameters_follow_the_original_codes_trajectory(case):
    name, options, fill = CASES[case]
    golden = json.loads((GOLDEN / f"{case}.json").read_text())
    lopt = LEARNED_OPTIMIZERS[name](**options)
    theta = jax.jit(lopt.init, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(0))
    if fill:
        theta = filled(theta, golden["theta_amp"])

    @jax.jit
    def step(params, state, grads, value):
        tx = optax.with_extra_args_support(lopt.build(theta, golden.get("num_steps")))
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    names = golden["traj"][0]
    start = params = {k: v for k, v in params0().items() if k in names}
    state = lopt.build(theta, golden.get("num_steps")).init(params)
    for t, expected in enumerate(golden["traj"]):
        params, state = step(params, state, {k: grads(t)[k] for k in names}, loss(t))
        moved = max(float(jnp.abs(params[k] - start[k]).max()) for k in names)
        assert moved > 1e-3
        for k in names:
            np.testing.assert_allclose(
                params[k].ravel(), expected[k], rtol=0, atol=2e-5 * max(1, moved), err_msg=k
            )
