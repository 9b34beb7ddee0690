"""Celo2: a per-parameter network whose output is normalised, so that the step's size is set outside."""

from functools import partial
from typing import Annotated, Literal

import haiku as hk
import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from learned_opt.architectures.blocks import adam_direction, clip_gradients, newton_schulz
from learned_opt.architectures.features import (
    LARGE,
    Decays,
    Norm,
    StateDtype,
    Tensor,
    init_state,
    normalise,
    observe,
)
from learned_opt.architectures.network import HYPER_FEATURES, dummy_tensor, hyper_mlp, tree_like
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.95,), factored=(0.9, 0.99, 0.999))
NORM = Norm(eps=1e-9, last=2)


def celo2(
    *,
    hidden: Annotated[int, Ge(1)] = 8,
    orthogonalise: bool = True,
    learning_rate: Annotated[float, Gt(0)] = 1e-3,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
    vectors: Literal["network", "adamw"] = "network",
    vector_lr_mult: Annotated[float, Gt(0)] = 1.0,
    clip_norm: Annotated[float, Gt(0)] | None = None,
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """Celo2 (Moudgil et al. 2025): `p <- p - learning_rate * (unit_rms(o) + weight_decay * p)`.

    o is the output, for this parameter, of an MLP on 30 normalised features of the gradient's
    accumulators (for vectors, the first 15); for a matrix, first orthogonalised by Newton and Schulz. As
    the step always has unit size, neither loss nor horizon enters: rate, schedule and decay are yours.
    theta (347 meta-parameters at hidden = 8): `ff_mod_stack/~/{w0__0..w0__13,b0,w1,b1,w2,b2}`.

    Args:
      hidden: width of the two hidden layers.
      orthogonalise: orthogonalise the step of matrices (Celo2) or not (Celo2-base).
      learning_rate: > 0. For a schedule, chain optax's `scale_by_schedule` after this.
      weight_decay: decoupled, multiplied by the learning rate; >= 0.
      vectors: who steps tensors of rank <= 1: the network, or AdamW (.9, .95) from the same accumulators.
      vector_lr_mult: AdamW's learning rate over `learning_rate`; > 0. In meta-training Celo2 has 20.
      clip_norm: clip the gradients by their global norm first; > 0, None for not at all.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer. State: 16 bytes a parameter, and 12 for each row and column of a matrix
      (28 a parameter for vectors).

    Inputs: 30 features a parameter as VeLO's (15 for vectors).
    Outputs: a direction for each parameter; orthogonalised for a matrix, and of unit size.
    Source: celo's scale_by_celo2; with vectors = "adamw" and clip_norm = 1, PyLO's ELO-CELO2. Differs from
    it in: embeddings are matrices like others (use `optax.multi_transform` to send them elsewhere).
    """
    net = hk.without_apply_rng(hk.transform(partial(_network, hidden=hidden, fused_from=fused_from)))

    def init(key):
        return {"ff_mod_stack": net.init(key, dummy_tensor(DECAYS, (1, 1)))}

    def step(theta, t, count):
        if t.grad.ndim < 2 and vectors == "adamw":
            adam = adam_direction(t, count, DECAYS.momentum[0], DECAYS.rms[0])
            return learning_rate * vector_lr_mult * (adam + weight_decay * t.param)
        o = net.apply(theta["ff_mod_stack"], t)[..., 0]
        if t.grad.ndim >= 2 and orthogonalise:
            o = newton_schulz(o)
        return learning_rate * (normalise(o[..., None], NORM)[..., 0] + weight_decay * t.param)

    def build(theta, num_steps=None):
        del num_steps

        def update(grads, state, params, value):
            del value
            if clip_norm is not None:
                grads = clip_gradients(grads, clip_norm)
            grads = jax.tree.map(lambda g: jnp.clip(g, -1000, 1000), grads)
            tensors, state = observe(grads, state, params, DECAYS, rms_eps=1e-8)
            return tree_like([-step(theta, t, state.count) for t in tensors], params), state

        init_fn = partial(init_state, decays=DECAYS, dtype=state_dtype)
        return transformation("celo2", init_fn, update, needs=("params",))

    return LearnedOptimizer(init, build)


def _network(t: Tensor, hidden: int, fused_from: int) -> jax.Array:
    features = HYPER_FEATURES if t.grad.ndim >= 2 else HYPER_FEATURES[:9]
    return hyper_mlp(t, (hidden, hidden, 3), features, NORM, fused_from)
