"""Meta-parameters are named, shaped and initialised as in the code each architecture comes from."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from learned_opt import LEARNED_OPTIMIZERS

TREES = json.loads((Path(__file__).parent / "golden" / "theta_trees.json").read_text())

# tree in golden/theta_trees.json -> (architecture, options, number of meta-parameters)
CASES = {
    "learnable_sgd": ("learnable_sgd", {}, 1),
    "learnable_sgdm": ("learnable_sgdm", {}, 2),
    "learnable_adam": ("learnable_adam", {}, 4),
    "per_param_mlp": ("per_param_mlp", {}, 1_762),
    "adafac_mlp": ("adafac_mlp", {}, 197),
    "adafac_mlp_h32": ("adafac_mlp", {"hidden": 32}, 2_409),
    "mlp_nominal": ("mlp_nominal", {}, 207),
    "nn_adam": ("nn_adam", {}, 6_856),
    "rnn_mlp": ("rnn_mlp", {}, 35_799),
    "velo": ("velo", {}, 2_320_385),
    "velo_h128": ("velo", {"lstm_hidden": 128, "bank": 64}, 162_305),
}


def shapes(lopt):
    leaves = jax.tree_util.tree_leaves_with_path(jax.eval_shape(lopt.init, jax.random.key(0)))
    return {jax.tree_util.keystr(path, simple=True, separator="."): list(x.shape) for path, x in leaves}


@pytest.mark.parametrize("case", CASES)
def test_the_paths_and_shapes_of_theta_are_the_originals(case):
    name, options, count = CASES[case]
    got = shapes(LEARNED_OPTIMIZERS[name](**options))
    assert got == TREES[case]
    assert sum(int(np.prod(shape)) for shape in got.values()) == count


def test_the_residual_optimizer_has_439_meta_parameters():
    got = shapes(LEARNED_OPTIMIZERS["residual"]())
    assert sum(int(np.prod(shape)) for shape in got.values()) == 439 and got["schedule"] == [20]


def test_weights_start_truncated_normal_and_biases_zero():
    theta = LEARNED_OPTIMIZERS["adafac_mlp"](hidden=256).init(jax.random.key(0))["nn"]["~"]
    for i, fan_in in enumerate((39, 256)):
        scaled = theta[f"w{i}"] * fan_in**0.5
        assert float(jnp.abs(scaled).max()) <= 2.0
        # 0.88 is the standard deviation of a unit normal cut at 2; with 9,984 numbers or more the standard
        # error is below 0.007, and |z| < 4 fails by chance once in 15,000 keys (this one is fixed).
        assert abs(float(jnp.std(scaled)) - 0.8796) < 0.028
    for i in range(3):
        assert not np.any(theta[f"b{i}"])


def test_hyperparameters_start_where_the_options_say():
    theta = LEARNED_OPTIMIZERS["learnable_adam"](initial_lr=0.02, initial_beta1=0.8).init(jax.random.key(0))
    np.testing.assert_allclose(jnp.exp(theta["log_lr"]), 0.02, rtol=1e-6)
    np.testing.assert_allclose(1 - jnp.exp(theta["one_minus_beta1"]), 0.8, rtol=1e-6)
    np.testing.assert_allclose(jnp.exp(theta["log_epsilon"]), 1e-8, rtol=1e-5)
