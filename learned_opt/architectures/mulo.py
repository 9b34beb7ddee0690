"""muLO and ELO: AdafacMLP networks meta-trained to work at other widths, and on large models."""

from functools import partial
from typing import Annotated

import haiku as hk
import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from learned_opt.architectures.adafac_mlp import init_decay_offsets, learned_decays, network
from learned_opt.architectures.blocks import clip_gradients, mu_multipliers
from learned_opt.architectures.features import LARGE, Decays, StateDtype, init_state, observe, time_embedding
from learned_opt.architectures.network import direction, dummy_tensor, tree_like
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))


def mulo(
    *,
    hidden: Annotated[int, Ge(1)] = 32,
    step_mult: Annotated[float, Gt(0)] = 0.01,
    exp_mult: Annotated[float, Ge(0)] = 1e-3,
    hidden_weights: str = r"^$",
    hidden_lr_mult: Annotated[float, Gt(0)] = 1.0,
    clip_norm: Annotated[float, Gt(0)] | None = None,
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """muLO (Therien et al. 2024): AdafacMLP under the maximal-update parameterisation.

    `p <- p - mu * step_mult * o_0 * exp(exp_mult * o_1)`

    mu is hidden_lr_mult / fan-in for hidden weights and 1 for input and output weights and biases. The
    task must be mu-parameterised too: that is what makes the step of a small width right at a large one.
    theta (2,409 meta-parameters) as AdafacMLP's, with the decays as learned offsets.

    Args:
      hidden: width of the two hidden layers.
      step_mult: scale of the step; > 0.
      exp_mult: scale of the second output; >= 0.
      hidden_weights: regular expression that is found in the path of a hidden weight, and in no other:
        only names tell them apart. A path is the keys joined by dots: "mlp/~/linear_1.w". The default
        finds none. Leaves with fewer than two axes never count.
      hidden_lr_mult: mu of a hidden weight of fan-in 1; to keep the step at a base width, that width; > 0.
      clip_norm: clip the gradients by their global norm first; > 0, None for not at all.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss. State as AdafacMLP's.

    Inputs: as AdafacMLP's; by name, which matrices are hidden ones.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: arXiv 2406.00153 and PyLO's AdafacLO. Differs from it in: hidden weights are found by name
    (PyLO: by marks on the tensors).
    """
    net = _network(hidden, fused_from)

    def init(key):
        nn = net.init(key, [dummy_tensor(DECAYS)], time_embedding(jnp.zeros([])))
        return {"nn": nn, **init_decay_offsets(DECAYS)}

    def build(theta, num_steps=None):
        del num_steps

        def update(grads, state, params, value):
            del value
            shared, grads = time_embedding(state.count), clip_gradients(grads, clip_norm)
            tensors, state = observe(grads, state, params, learned_decays(theta, DECAYS))
            outputs = net.apply(theta["nn"], tensors, shared)
            steps = tree_like([-step_mult * direction(o, exp_mult) for o in outputs], params)
            mu = mu_multipliers(params, hidden_weights, hidden_lr_mult)
            return jax.tree.map(jnp.multiply, mu, steps), state

        init_fn = partial(init_state, decays=DECAYS, dtype=state_dtype)
        return transformation("mulo", init_fn, update, needs=("params",))

    return LearnedOptimizer(init, build)


def elo(
    *,
    hidden: Annotated[int, Ge(1)] = 32,
    learning_rate: Annotated[float, Gt(0)] = 1e-3,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
    exp_mult: Annotated[float, Ge(0)] = 1e-3,
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """ELO: AdafacMLP with fixed decays, `p <- p - learning_rate * (o_0 exp(exp_mult o_1) + weight_decay p)`.

    theta (2,402 meta-parameters): `nn/~/{w,b}{0,1,2}`, AdafacMLP's network.

    Args:
      hidden: width of the two hidden layers.
      learning_rate: > 0. For a schedule, chain optax's `scale_by_schedule` after this.
      weight_decay: decoupled, multiplied by the learning rate; >= 0.
      exp_mult: scale of the second output; >= 0.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer; it needs neither the horizon nor the loss. State as AdafacMLP's.

    Inputs: as AdafacMLP's.
    Outputs: a direction and the logarithm of its size, for each parameter.
    Source: PyLO's ELO. Differs from it in: nothing.
    """
    net = _network(hidden, fused_from)

    def init(key):
        return {"nn": net.init(key, [dummy_tensor(DECAYS)], time_embedding(jnp.zeros([])))}

    def build(theta, num_steps=None):
        del num_steps

        def update(grads, state, params, value):
            del value
            shared, grads = time_embedding(state.count), clip_gradients(grads, None)
            tensors, state = observe(grads, state, params, DECAYS)
            outputs = net.apply(theta["nn"], tensors, shared)
            steps = tree_like([direction(o, exp_mult) for o in outputs], params)
            return jax.tree.map(lambda s, p: -learning_rate * (s + weight_decay * p), steps, params), state

        init_fn = partial(init_state, decays=DECAYS, dtype=state_dtype)
        return transformation("elo", init_fn, update, needs=("params",))

    return LearnedOptimizer(init, build)


def _network(hidden: int, fused_from: int) -> hk.Transformed:
    sizes = [hidden, hidden, 2]
    return hk.without_apply_rng(hk.transform(partial(network, sizes=sizes, fused_from=fused_from)))
