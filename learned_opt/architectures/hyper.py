"""Hypernetwork optimizers: an LSTM for each tensor mixes the weights of that tensor's per-parameter MLP.

The core of VeLO and Celo; what they choose differently are the arguments of `hypernetwork_optimizer`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.lax import rsqrt

from learned_opt.architectures.features import (
    LARGE,
    Decays,
    State,
    StateDtype,
    Tensor,
    fraction_embedding,
    init_state,
    observe,
    widened,
)
from learned_opt.architectures.network import direction, dummy_tensor, hyper_mlp, tree_like
from learned_opt.architectures.recurrent import (
    LossBuffer,
    for_tensors,
    init_loss_buffer,
    init_lstm_state,
    log_magnitude,
    push_loss,
)
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer

DECAYS = Decays(momentum=(0.9, 0.99, 0.999), rms=(0.999,), factored=(0.9, 0.99, 0.999))


class HyperState(NamedTuple):
    """State of a hypernetwork optimizer.

    Attributes:
      seen: count and accumulators.
      lstm: hidden and cell, f32[tensors, hidden], tensors in JAX's flatten order.
      losses: running means of the loss.
    """

    seen: State
    lstm: hk.LSTMState
    losses: LossBuffer


def hypernetwork_optimizer(
    name: str,
    *,
    lstm_hidden: int,
    bank: int,
    hidden: int,
    step_mult: float,
    exp_mult: float,
    tensor_features: Callable[[Tensor], jax.Array] | None,
    mix: Callable[[jax.Array], jax.Array],
    rate: Callable[[jax.Array], jax.Array],
    loss_steps: int | None = None,
    fused_from: int = LARGE,
    state_dtype: StateDtype = "float32",
) -> LearnedOptimizer:
    """`p <- p - step_mult * rate * |p| * o_0 * exp(exp_mult * o_1)`, |p| the root mean square of the tensor.

    Args:
      name: the architecture's.
      lstm_hidden: size of the LSTM.
      bank: number of MLPs in the bank that is mixed.
      hidden: width of the two hidden layers of the MLPs, which have three outputs (one unused).
      step_mult: scale of the step.
      exp_mult: scale of the second output.
      tensor_features: what the LSTM sees of a tensor, f32[n], beside the loss and the fraction of the
        training; None for nothing.
      mix: the LSTM's control outputs, f32[tensors, bank], to the weights of the mixture.
      rate: its rate outputs, f32[tensors], to factors of the step.
      loss_steps: num_steps of the loss features, if not the horizon.
      fused_from: tensors of at least so many elements are stepped without an array of their features.
      state_dtype: of the accumulators as large as the parameters; bfloat16 halves them.
    """
    mlp = hk.without_apply_rng(
        hk.transform(partial(hyper_mlp, sizes=(hidden, hidden, 3), fused_from=fused_from))
    )
    rnn = hk.without_apply_rng(hk.transform(partial(_recurrent, hidden=lstm_hidden, bank=bank)))

    def lstm_inputs(tensors, count, num_steps, losses):
        shared = [fraction_embedding(count, num_steps), losses]
        own = [[] if tensor_features is None else [tensor_features(t)] for t in tensors]
        return jnp.stack([jnp.concatenate(shared + features) for features in own])

    def init(key):
        key_mlp, key_rnn = jax.random.split(key)
        tensors = [dummy_tensor(DECAYS)]
        inputs = lstm_inputs(tensors, jnp.zeros([]), 1, jnp.zeros(9))
        return {
            "ff_mod_stack": jax.vmap(mlp.init, (0, None))(jax.random.split(key_mlp, bank), tensors[0]),
            "lstm_init_state": init_lstm_state(lstm_hidden),
            "rnn_params": rnn.init(key_rnn, inputs, init_lstm_state(lstm_hidden)),
        }

    def build(theta, num_steps=None):
        def init_fn(params):
            lstm = for_tensors(theta["lstm_init_state"], len(jax.tree.leaves(params)))
            return HyperState(init_state(params, DECAYS, state_dtype), lstm, init_loss_buffer())

        def update(grads, state, params, value):
            grads = jax.tree.map(lambda g: jnp.clip(g, -1000, 1000), grads)
            losses, buffer = push_loss(state.losses, value, num_steps if loss_steps is None else loss_steps)
            tensors, seen = observe(grads, state.seen, params, DECAYS, diag_eps=0.0)
            before = jax.tree.structure(params).flatten_up_to(state.seen.acc)
            before = [t._replace(acc=widened(acc)) for t, acc in zip(tensors, before, strict=True)]
            inputs = lstm_inputs(before, state.seen.count, num_steps, losses)
            controls, rates, lstm = rnn.apply(theta["rnn_params"], inputs, state.lstm)
            weights = _tensordot(mix(controls), theta["ff_mod_stack"])
            rates = rate(rates)
            steps = []
            for i, t in enumerate(tensors):
                o = mlp.apply(jax.tree.map(lambda w, i=i: w[i], weights), t)
                size = jnp.sqrt(jnp.mean(jnp.square(t.param)) + 1e-9)
                steps.append(-step_mult * rates[i] * size * direction(o, exp_mult))
            return tree_like(steps, params), HyperState(seen, lstm, buffer)

        needs = ("params", "num_steps", "value")
        return transformation(name, init_fn, update, needs=needs, num_steps=num_steps)

    return LearnedOptimizer(init, build, needs=("num_steps", "value"))


def tensor_statistics(t: Tensor) -> jax.Array:
    """What VeLO's LSTM sees of a tensor, f32[12]; its accumulators have not seen the gradient yet."""
    axes = tuple(range(t.grad.ndim))
    scale = rsqrt(jnp.maximum(1e-9, jnp.mean(jnp.square(t.param))))
    m, v = scale * t.acc.momentum, scale * t.acc.rms
    mean_m = jnp.mean(m, axes)
    rank = jax.nn.one_hot(sum(size > 1 for size in t.grad.shape), 5)
    var_m = jnp.mean(jnp.square(m - mean_m), axes)
    var_v = jnp.mean(jnp.square(v - mean_m), axes)  # not v's mean: so it was trained
    mean_v, var_m, var_v = (0.5 * log_magnitude(10 * x) for x in (jnp.mean(v, axes), var_m, var_v))
    return jnp.concatenate([mean_v, rank, var_m, var_v])


def _recurrent(x, state, *, hidden: int, bank: int):
    hk.Linear(hidden)(x)  # unused, but part of theta
    pooled = jnp.max(jax.nn.relu(hk.Linear(hidden)(x)), axis=0, keepdims=True)
    x, state = hk.LSTM(hidden, name="rnn")(hk.Linear(hidden)(x) + pooled, state)
    controls, rates = hk.Linear(bank, name="rnn_to_controls")(x), hk.Linear(1, name="step_size")(x)
    return controls, rates[:, 0], state


def _tensordot(mixture: jax.Array, bank: Any) -> Any:
    return jax.tree.map(lambda w: jnp.tensordot(mixture, w, 1), bank)
