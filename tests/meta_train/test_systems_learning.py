"""Systems that learn from data: an LSTM online, and the hyperparameters of an MLP's training."""

import re

import jax.numpy as jnp
import pytest

from meta_train.estimators import ESTIMATORS
from meta_train.estimators.base import GRADIENT_FREE
from meta_train.system import UnrolledSystem


@pytest.mark.parametrize("name", ESTIMATORS)
def test_only_estimators_that_evaluate_losses_take_a_system_without_gradients(name):
    def step(theta, state, key, data):
        return state, jnp.sign(theta)

    system = UnrolledSystem(lambda theta, key: (jnp.zeros([]), jnp.int32(20)), step, 20, 20)
    ESTIMATORS[name](system)
    system = system._replace(no_gradient="objective sign")
    if name in GRADIENT_FREE:
        ESTIMATORS[name](system)
        return
    line = f"{name} needs gradients, objective sign has none; allowed: full_es, gpes, nres, pes, truncated_es"
    with pytest.raises(ValueError, match=f"^{re.escape(line)}$"):
        ESTIMATORS[name](system)
