"""Every factory refuses what its signature does not allow, in one line, before anything is built."""

import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import learned_opt
from learned_opt import LEARNED_OPTIMIZERS
from learned_opt.architectures.options import StateDtype

NUMBERS = {"hidden": -1, "step_mult": -1.0, "initial_lr": -1, "lstm_hidden": 10**9, "fused_from": -1}


@pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)
def test_a_factory_checks_every_option_of_its_signature(name):
    factory = LEARNED_OPTIMIZERS[name]
    parameters = inspect.signature(factory).parameters
    assert all(p.kind is p.KEYWORD_ONLY for p in parameters.values())
    for option, parameter in parameters.items():
        wrong = NUMBERS.get(option, object())
        with pytest.raises(ValueError, match=f"^{name}: {option} is .*, must be ") as error:
            factory(**{option: wrong})
        assert "\n" not in str(error.value)
        factory(**{option: parameter.default})
    with pytest.raises(TypeError, match=f"{name} has no option wrong; it has "):
        factory(wrong=1)


@pytest.mark.parametrize("name", LEARNED_OPTIMIZERS)
def test_the_docstring_describes_every_option_once_and_in_order(name):
    doc, positions = inspect.getdoc(LEARNED_OPTIMIZERS[name]), []
    for option in inspect.signature(LEARNED_OPTIMIZERS[name]).parameters:
        assert doc.count(f"\n  {option}: ") == 1, option
        positions.append(doc.index(f"\n  {option}: "))
    assert positions == sorted(positions) and doc.count("Args:\n") == 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("celo", {"phase": 3}, "phase is 3, must be one of 1, 2"),
        ("celo", {"phase": True}, "phase is True, must be one of 1, 2"),
        ("celo", {"fase": 1}, "celo has no option fase; did you mean phase?"),
        ("celo2", {"vectors": "adam"}, "vectors is 'adam', must be one of network, adamw"),
        ("celo2", {"adam_paths": "("}, "adam_paths is '(', must be a regular expression"),
        ("celo2", {"adam_betas": (0.9,)}, "adam_betas is (0.9,), must be a list of 2"),
        ("celo2", {"clip_norm": 0.0}, "clip_norm is 0.0, must be > 0 or None"),
        ("mulo", {"hidden_weights": "*"}, "hidden_weights is '*', must be a regular expression"),
        ("spectral", {"embeddings": "["}, "embeddings is '[', must be a regular expression"),
        ("velo", {"state_dtype": "float16"}, "state_dtype is 'float16', must be one of float32, bfloat16"),
        ("learnable_sgd", {"initial_lr": -1}, "initial_lr is -1, must be > 0"),
        ("learnable_sgd", {"initial_lr": float("nan")}, "initial_lr is nan, must be a finite number"),
        ("learnable_sgd", {"initial_lr": 10**400}, "must be a finite number"),
        ("nn_adam", {"initial_beta1": 1.5}, "initial_beta1 is 1.5, must be < 1"),
        ("adafac_mlp", {"hidden": 0}, "hidden is 0, must be >= 1"),
        ("adafac_mlp", {"hidden": 4.0}, "hidden is 4.0, must be a whole number"),
        ("adafac_mlp", {"hidden": True}, "hidden is True, must be a whole number"),
        ("adafac_mlp", {"num_hidden": 10**8}, "num_hidden is 100000000, must be <= 64"),
        ("adafac_mlp", {"momentum_decays": (0.9, 1.5)}, "must be a list, each < 1"),
        ("adafac_mlp", {"momentum_decays": 0.9}, "momentum_decays is 0.9, must be a list"),
        ("mlp_nominal", {"nominal_controller": 1}, "nominal_controller is 1, must be True or False"),
    ],
)
def test_a_wrong_option_is_named_with_its_value_and_what_is_allowed(name, options, message):
    with pytest.raises((ValueError, TypeError)) as error:
        LEARNED_OPTIMIZERS[name](**options)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_lists_whole_numbers_and_numpys_numbers_are_taken():
    learned_opt.mlp_nominal(exp_mult=[0, 1, np.float32(0.5)], momentum_decays=[0.9], factored_decays=[0.5])
    learned_opt.adafac_mlp(hidden=np.int64(2), step_mult=1)


@pytest.mark.parametrize("num_steps", [0, -3, 2.5, "10", True, float("nan"), np.float32(10)])
def test_a_number_of_steps_is_a_whole_number_of_at_least_one(num_steps, tmp_path):
    lopt = learned_opt.residual(hidden=1)
    theta = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), jax.eval_shape(lopt.init, jax.random.key(0)))
    with pytest.raises(ValueError, match="num_steps must be a whole number >= 1, got"):
        lopt.build(theta, num_steps)
    name = {"name": "residual", "options": {"hidden": 1}, "horizon": None, "provenance": {}}
    learned_opt.save(tmp_path / "lo", theta=theta, **name)
    with pytest.raises(ValueError, match="num_steps must be a whole number >= 1, got"):
        learned_opt.load(tmp_path / "lo", num_steps=num_steps)


def test_a_number_of_steps_may_be_numpys_and_may_be_traced():
    lopt = learned_opt.residual(hidden=1)
    theta = jax.eval_shape(lopt.init, jax.random.key(0))
    params = {"w": jnp.zeros(2)}

    def update(theta, num_steps):
        tx = lopt.build(theta, num_steps)
        return tx.update(params, tx.init(params), params)[0]

    assert jax.eval_shape(update, theta, jnp.int32(5))["w"].shape == (2,)
    assert jax.eval_shape(lambda theta: update(theta, np.int64(5)), theta)["w"].shape == (2,)


def test_the_description_of_a_shared_type_stands_with_the_type():
    assert StateDtype.__metadata__[-1] in " ".join(inspect.getdoc(learned_opt.velo).split())
