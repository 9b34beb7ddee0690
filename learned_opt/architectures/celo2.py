"""Celo2: a per-parameter network whose output is normalised, so that the step's size is set outside."""

from functools import partial
from typing import Literal

import jax
import jax.numpy as jnp

from learned_opt.architectures import options
from learned_opt.architectures.blocks import NOMINAL, adam_direction, clip_gradients, newton_schulz
from learned_opt.architectures.features import LARGE, Decays, Norm, Tensor, normalise
from learned_opt.architectures.network import HYPER_FEATURES, dummy_tensor, hyper_mlp, transformed
from learned_opt.architectures.options import checked, path_matcher
from learned_opt.architectures.skeleton import feature_optimizer
from learned_opt.base import LearnedOptimizer

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.95,), factored=(0.9, 0.99, 0.999))
NORM = Norm(eps=1e-9, last=2)


@checked
def celo2(
    *,
    hidden: options.Hidden = 8,
    orthogonalise: bool = True,
    learning_rate: options.Rate = 1e-3,
    weight_decay: options.Scale = 0.0,
    vectors: Literal["network", "adamw"] = "network",
    vector_lr_mult: options.Rate = 1.0,
    adam_paths: str = r"^$",
    adam_betas: tuple[options.Decay, options.Decay] = (0.9, 0.95),
    adam_eps: options.Rate = 1e-8,
    clip_norm: options.ClipNorm = None,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """Celo2 (Moudgil et al. 2025): `p <- p - learning_rate * (unit_rms(o) + weight_decay * p)`.

    o is the output, for this parameter, of an MLP on 30 normalised features of the gradient's
    accumulators (for vectors, the first 15); for a matrix, first orthogonalised by Newton and Schulz. As
    the step always has unit size, neither loss nor horizon enters: rate, schedule and decay are yours.
    theta (347 meta-parameters at hidden = 8): `ff_mod_stack/~/{w0__0..w0__13,b0,w1,b1,w2,b2}`.

    Args:
      orthogonalise: orthogonalise the step of matrices (Celo2) or not (Celo2-base).
      learning_rate: > 0. For a schedule, chain optax's `scale_by_schedule` after this.
      weight_decay: decoupled, multiplied by the learning rate; >= 0.
      vectors: what steps tensors of rank <= 1: the network, or bias-corrected AdamW.
      vector_lr_mult: the learning rate of both kinds of Adam over `learning_rate`; > 0. In meta-training
        Celo2 has 20.
      adam_paths: regular expression; a leaf whose path it is found in is stepped by Celo2's own Adam,
        `m / sqrt(v + adam_eps)` without bias correction, whatever its rank. A path is the keys joined by
        slashes: "mlp/~/linear_1/b". The default finds none; in meta-training Celo2 has "/b$".
      adam_betas: decays of both kinds of Adam; each in [0, 1).
      adam_eps: added to the root of v, or under it; > 0.

    Raises:
      ValueError: adam_paths is not a regular expression.

    State: as AdafacMLP's; 8 bytes a parameter for what adam_paths finds.
    Inputs: 30 features a parameter as VeLO's (15 for vectors).
    Outputs: a direction for each parameter; orthogonalised for a matrix, and of unit size.
    Source: celo's scale_by_celo2; with adam_paths its Celo2; with vectors = "adamw" and clip_norm = 1, PyLO's
    ELO-CELO2. Differs from it in: nothing.
    """
    net = transformed(partial(_network, hidden=hidden, fused_from=fused_from))
    by_path, adam_rate = path_matcher("adam_paths", adam_paths, "/"), learning_rate * vector_lr_mult

    def init(key):
        return {"ff_mod_stack": net.init(key, dummy_tensor(DECAYS, (1, 1)))}

    def decays(theta, params):
        del theta
        alone = Decays(adam_betas[:1], adam_betas[1:])
        shared = DECAYS._replace(momentum=(adam_betas[0], *DECAYS.momentum[1:]), rms=adam_betas[1:])
        rest = {True: DECAYS, False: shared if vectors == "adamw" else DECAYS}
        leaves = jax.tree_util.tree_leaves_with_path(params)
        return [alone if by_path(path) else rest[p.ndim >= 2] for path, p in leaves]

    def clip(grads):
        grads = grads if clip_norm is None else clip_gradients(grads, clip_norm)
        return jax.tree_util.tree_map_with_path(
            lambda path, g: g if by_path(path) else jnp.clip(g, -1000, 1000), grads
        )

    def direction(theta, t):
        o = net.apply(theta["ff_mod_stack"], t)[..., 0]
        if t.grad.ndim >= 2 and orthogonalise:
            o = newton_schulz(o)
        return normalise(o[..., None], NORM)[..., 0]

    def steps(theta, seen):
        found = []
        for (path, _), t in zip(jax.tree_util.tree_leaves_with_path(seen.params), seen.tensors, strict=True):
            rate = adam_rate
            if by_path(path):
                d = NOMINAL["Adam"](t._replace(rms_eps=adam_eps))
            elif t.grad.ndim < 2 and vectors == "adamw":
                d = adam_direction(t, seen.count + 1, *adam_betas, eps=adam_eps)
            else:
                rate, d = learning_rate, direction(theta, t)
            found.append(-(rate * (d + weight_decay * t.param)))
        return found

    return feature_optimizer(
        "celo2", init, steps, decays=decays, clip=clip, rms_eps=1e-8, state_dtype=state_dtype
    )


def _network(t: Tensor, hidden: int, fused_from: int) -> jax.Array:
    features = HYPER_FEATURES if t.grad.ndim >= 2 else HYPER_FEATURES[:9]
    return hyper_mlp(t, (hidden, hidden, 3), features, NORM, fused_from)
