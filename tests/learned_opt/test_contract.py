"""What every learned optimizer promises, whoever adds it: one table, no special cases.

(The trajectories of test_parity.py have scalars and kernels of three axes too.)
"""

import functools
import subprocess
import sys

import jax
import jax.numpy as jnp
import optax
import pytest

from learned_opt import LEARNED_OPTIMIZERS, LearnedOptimizer, contract, promises

SMALL = {"velo": {"lstm_hidden": 8, "bank": 2}, "celo": {"lstm_hidden": 8}, "rnn_mlp": {"lstm_hidden": 8}}


@functools.cache
def made(name):
    return contract.made(LEARNED_OPTIMIZERS[name](**SMALL.get(name, {})))


CHECKS = [
    pytest.param(name, marks=pytest.mark.slow if name == "differentiable" else ()) for name in contract.CHECKS
]


@pytest.mark.parametrize("check", CHECKS)
@pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)
def test_it_keeps_the_promise(name, check):
    assert jax.device_count() == 4
    contract.CHECKS[check](made(name))


@pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)
def test_it_asks_by_its_own_name_for_what_it_needs(name):
    lopt = LEARNED_OPTIMIZERS[name](**SMALL.get(name, {}))
    theta = jax.tree.map(lambda x: jnp.zeros(x.shape), jax.eval_shape(lopt.init, jax.random.key(0)))
    if "num_steps" in lopt.needs:
        with pytest.raises(ValueError, match=f"{name} needs num_steps"):
            lopt.build(theta, None)
    if "value" in lopt.needs:
        like, tx = promises.params(), lopt.build(theta, 20)
        with pytest.raises(ValueError, match=f"{name} needs the training loss.*value=loss"):
            jax.eval_shape(lambda p: tx.update(p, tx.init(p), p), like)


def plain(change=lambda tx: tx, **fields):
    """A learned optimizer that is an optax one at a learned rate, without the helpers of the project."""

    def build(theta, num_steps=None):
        return optax.with_extra_args_support(change(optax.sgd(jnp.exp(theta["log_lr"]), momentum=0.9)))

    init = fields.pop("init", lambda key: {"log_lr": jnp.float32(-3)})
    return LearnedOptimizer(init, build, **fields)


@pytest.mark.parametrize(
    ("lopt", "broken"),
    [
        (plain(), {"bfloat16", "refuses complex"}),
        (plain(init=lambda key: {"log_lr": -3.0}), {"theta is float32"}),
        (plain(trained=("rate",)), {"theta is float32"}),
        (plain(needs=("value",)), {"asks for what it needs"}),
        (plain(lambda tx: optax.chain(tx, optax.scale(0.0))), {"trains"}),
    ],
)
def test_a_promise_that_is_broken_is_named(lopt, broken):
    found = contract.check_optimizer(lopt)
    assert broken <= {name for name, check in found.items() if not check.passed}
    assert all(len(check.detail.splitlines()) == 1 for check in found.values())


def test_importing_learned_opt_loads_nothing_heavy():
    code = "import sys, learned_opt; print(*sys.modules)"
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {
        "tasks",
        "meta_train",
        "orbax",
        "matplotlib",
        "pydantic",
        "sklearn",
        "wandb",
        "tensorflow_datasets",
    }
    assert "learned_opt" in out and heavy & {module.split(".")[0] for module in out} == set()
