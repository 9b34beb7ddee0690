"""The residual optimizer: Adam at initialisation, with a learned schedule and per-parameter corrections."""

from typing import Annotated

import jax.numpy as jnp
from annotated_types import Interval

from learned_opt.architectures import options
from learned_opt.architectures.adafac_mlp import DECAYS, adafac_optimizer
from learned_opt.architectures.blocks import STATISTICS, adam_direction, learned_schedule, tensor_statistics
from learned_opt.architectures.features import (
    FRACTIONS,
    LARGE,
    TIMESCALES,
    fraction_embedding,
    time_embedding,
)
from learned_opt.architectures.network import dense, direction, transformed
from learned_opt.architectures.options import checked
from learned_opt.base import LearnedOptimizer


@checked
def residual(
    *,
    hidden: options.Hidden = 8,
    tensor_hidden: Annotated[int, Interval(ge=0, le=2**14)] = 0,
    initial_lr: options.Rate = 3e-3,
    output_scale: options.Scale = 0.1,
    schedule_limit: options.Rate = 7.0,
    adam_limit: options.Rate = 3.0,
    exp_mult: options.Scale = 0.1,
    weight_decay: options.Scale = 0.0,
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
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
      tensor_hidden: width of the hidden layer that sets each tensor's rate; 0 for none.
      initial_lr: Adam's learning rate at initialisation; > 0.
      output_scale: the last layer's initial weights, relative to the usual; >= 0. At 0 the optimizer
        is exactly Adam at initialisation.
      schedule_limit: |s|, and |r|, are at most this; > 0.
      adam_limit: |o_2| is at most this; > 0.
      exp_mult: scale of o_1; >= 0.
      weight_decay: `weight_decay * p` is added to A, as AdamW does; >= 0.

    State: as AdafacMLP's.
    Inputs: as AdafacMLP's; for the schedule, the time and 9 fractions of the training; for a tensor's rate
    these, and signal-to-noise ratios, agreement of momenta, and sizes.
    Outputs: a direction and the logarithms of its size and of Adam's, for each parameter; one schedule;
    a rate for each tensor.
    Source: this project. Differs from AdafacMLP in: Adam's direction is added to the network's, the
    schedule, and decays that are not learned.
    """

    times = len(TIMESCALES) + len(FRACTIONS)

    def tensor_network(inputs):
        layers = [dense(inputs.shape[-1], tensor_hidden, "0"), dense(tensor_hidden, 1, "1", scale=0.0)]
        x = jnp.tanh(inputs @ layers[0][0] + layers[0][1])
        return (x @ layers[1][0] + layers[1][1])[..., 0]

    tensor_net = transformed(tensor_network)

    def more(key):
        inputs = jnp.zeros([1, 2 * STATISTICS + times])
        tensor = {"tensor": tensor_net.init(key, inputs)} if tensor_hidden else {}
        return {"schedule": jnp.zeros(times), **tensor}

    def tensor_rates(theta, tensors, count, num_steps):
        """f32[M], the factor of each tensor."""
        own = jnp.stack([tensor_statistics(t, count, DECAYS) for t in tensors])
        times = jnp.concatenate([time_embedding(count), fraction_embedding(count, num_steps)])
        shared = jnp.concatenate([jnp.mean(own, 0), times])
        inputs = jnp.concatenate([own, jnp.tile(shared, (len(tensors), 1))], -1)
        r = tensor_net.apply(theta["tensor"], inputs)
        return jnp.exp(jnp.clip(r, -schedule_limit, schedule_limit))

    def steps(theta, seen, outputs):
        schedule = learned_schedule(theta["schedule"], seen.count, seen.num_steps, schedule_limit)
        count = seen.count + 1
        rates, found = [initial_lr * schedule] * len(seen.tensors), []
        if tensor_hidden:
            rates = initial_lr * schedule * tensor_rates(theta, seen.tensors, count, seen.num_steps)
        for t, o, rate in zip(seen.tensors, outputs, rates, strict=True):
            adam = adam_direction(t, count, DECAYS.momentum[0], DECAYS.rms[0])
            adam = adam * jnp.exp(jnp.clip(o[..., 2], -adam_limit, adam_limit))
            found.append(-rate * (adam + direction(o, exp_mult) + weight_decay * t.param))
        return found

    return adafac_optimizer(
        "residual",
        steps,
        sizes=[hidden, hidden, 3],
        last_scale=output_scale,
        more=more,
        needs=("num_steps",),
        fused_from=fused_from,
        state_dtype=state_dtype,
    )
