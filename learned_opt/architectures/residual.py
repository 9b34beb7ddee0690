"""The residual optimizer: Adam at initialisation, with a learned schedule and per-parameter corrections."""

from functools import partial
from typing import Annotated

import haiku as hk
import jax.numpy as jnp
from annotated_types import Ge, Gt

from learned_opt.architectures.adafac_mlp import FEATURES
from learned_opt.architectures.blocks import STATISTICS, adam_direction, learned_schedule, tensor_statistics
from learned_opt.architectures.features import (
    FRACTIONS,
    LARGE,
    TIMESCALES,
    Decays,
    StateDtype,
    fraction_embedding,
    init_state,
    observe,
    time_embedding,
)
from learned_opt.architectures.network import (
    dense,
    direction,
    dummy_tensor,
    fan_in,
    per_parameter_mlp,
    tree_like,
)
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))


def residual(
    *,
    hidden: Annotated[int, Ge(1)] = 8,
    tensor_hidden: Annotated[int, Ge(0)] = 0,
    initial_lr: Annotated[float, Gt(0)] = 3e-3,
    output_scale: Annotated[float, Ge(0)] = 0.1,
    schedule_limit: Annotated[float, Gt(0)] = 7.0,
    adam_limit: Annotated[float, Gt(0)] = 3.0,
    exp_mult: Annotated[float, Ge(0)] = 0.1,
    weight_decay: Annotated[float, Ge(0)] = 0.0,
    fused_from: Annotated[int, Ge(0)] = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """Adam with a learned schedule and learned per-parameter corrections.

    `p <- p - initial_lr * exp(s) * (A * exp(o_2) + o_0 * exp(exp_mult * o_1))`

    A is Adam's bias-corrected direction (.9, .999); s, the schedule, is a linear function of the time
    t (11 scales) and of t / T (9 fractions), clipped; o is the output, for this parameter, of an MLP on
    AdafacMLP's 39 inputs, o_2 clipped. At initialisation s = 0 and o is small: the optimizer is nearly
    Adam, so that meta-training begins with one that works. The 20 numbers of the schedule, which have
    the strongest signal, are learned first.
    With `tensor_hidden`, each tensor has a factor exp(r) on its steps besides: r is the output of an MLP
    (tanh) on seven statistics of the tensor, their means over all tensors, and the time as s sees it.
    The statistics tell the noise and the curvature that the optimizer meets (`tensor_statistics`), so that
    it can find the learning rate of a task unlike those of meta-training. r = 0 at initialisation.
    theta (439 meta-parameters at the defaults): `nn/~/{w,b}{0,1,2}`, and `schedule`, f32[20]; with
    `tensor_hidden`, `tensor/~/{w,b}{0,1}`.

    Args:
      hidden: width of the two hidden layers.
      tensor_hidden: width of the hidden layer that sets each tensor's rate; 0 for none.
      initial_lr: Adam's learning rate at initialisation; > 0.
      output_scale: the last layer's initial weights, relative to the usual; >= 0. At 0 the optimizer
        is exactly Adam at initialisation.
      schedule_limit: |s|, and |r|, are at most this; > 0.
      adam_limit: |o_2| is at most this; > 0.
      exp_mult: scale of o_1; >= 0.
      weight_decay: `weight_decay * p` is added to A, as AdamW does; >= 0.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.

    Returns:
      The learned optimizer; it needs the horizon (num_steps), not the loss. State: 16 bytes a
      parameter, and 12 for each row and column of a matrix (28 a parameter for vectors).

    Inputs: as AdafacMLP's; for the schedule, the time and 9 fractions of the training; for a tensor's rate
    these, and signal-to-noise ratios, agreement of momenta, and sizes.
    Outputs: a direction and the logarithms of its size and of Adam's, for each parameter; one schedule;
    a rate for each tensor.
    Source: this project. Differs from AdafacMLP in: Adam's direction is added to the network's, the
    schedule, and decays that are not learned.
    """

    def network(tensors, shared):
        sizes = [fan_in(FEATURES, tensors, shared), hidden, hidden, 3]
        scales = [1.0, 1.0, output_scale]
        layers = [dense(sizes[i], sizes[i + 1], str(i), scale=scale) for i, scale in enumerate(scales)]
        return per_parameter_mlp(FEATURES, tensors, layers, shared, fused_from=fused_from)

    def tensor_network(inputs):
        layers = [dense(inputs.shape[-1], tensor_hidden, "0"), dense(tensor_hidden, 1, "1", scale=0.0)]
        x = jnp.tanh(inputs @ layers[0][0] + layers[0][1])
        return (x @ layers[1][0] + layers[1][1])[..., 0]

    net = hk.without_apply_rng(hk.transform(network))
    tensor_net = hk.without_apply_rng(hk.transform(tensor_network))

    def init(key):
        nn = net.init(key, [dummy_tensor(DECAYS)], time_embedding(jnp.zeros([])))
        times = len(TIMESCALES) + len(FRACTIONS)
        theta = {"nn": nn, "schedule": jnp.zeros(times)}
        if tensor_hidden:
            theta["tensor"] = tensor_net.init(key, jnp.zeros([1, 2 * STATISTICS + times]))
        return theta

    def tensor_rates(theta, tensors, count, num_steps):
        """f32[M], the factor of each tensor."""
        own = jnp.stack([tensor_statistics(t, count, DECAYS) for t in tensors])
        times = jnp.concatenate([time_embedding(count), fraction_embedding(count, num_steps)])
        shared = jnp.concatenate([jnp.mean(own, 0), times])
        inputs = jnp.concatenate([own, jnp.tile(shared, (len(tensors), 1))], -1)
        r = tensor_net.apply(theta["tensor"], inputs)
        return jnp.exp(jnp.clip(r, -schedule_limit, schedule_limit))

    def build(theta, num_steps=None):
        def update(grads, state, params, value):
            del value
            schedule = learned_schedule(theta["schedule"], state.count, num_steps, schedule_limit)
            time = time_embedding(state.count)
            tensors, state = observe(grads, state, params, DECAYS)
            rates, steps = [initial_lr * schedule] * len(tensors), []
            if tensor_hidden:
                rates = initial_lr * schedule * tensor_rates(theta, tensors, state.count, num_steps)
            for t, o, rate in zip(tensors, net.apply(theta["nn"], tensors, time), rates, strict=True):
                adam = adam_direction(t, state.count, DECAYS.momentum[0], DECAYS.rms[0])
                adam = adam * jnp.exp(jnp.clip(o[..., 2], -adam_limit, adam_limit))
                steps.append(-rate * (adam + direction(o, exp_mult) + weight_decay * t.param))
            return tree_like(steps, params), state

        init_fn = partial(init_state, decays=DECAYS, dtype=state_dtype)
        return transformation("residual", init_fn, update, needs=("params", "num_steps"), num_steps=num_steps)

    return LearnedOptimizer(init, build, needs=("num_steps",))
