"""Optimizers with an LSTM for each tensor that sets its rate, and mixes the weights of its per-parameter MLP.

The core of VeLO, Celo and Celo-Adam; what they choose differently are the arguments.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.lax import rsqrt

from learned_opt.architectures.adafac_mlp import DECAYS
from learned_opt.architectures.features import (
    Decays,
    State,
    Tensor,
    fraction_embedding,
    init_state,
    observe,
    widened,
)
from learned_opt.architectures.network import direction, dummy_tensor, hyper_mlp, transformed, tree_like
from learned_opt.architectures.options import StateDtype
from learned_opt.architectures.recurrent import (
    LossBuffer,
    for_tensors,
    init_loss_buffer,
    init_lstm_state,
    log_magnitude,
    push_loss,
)
from learned_opt.architectures.rows import tensor_means
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer, Theta


class HyperState(NamedTuple):
    """State of such an optimizer.

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
    bank: int,
    hidden: int,
    step_mult: float,
    exp_mult: float,
    mix: Callable[[jax.Array], jax.Array],
    rate: Callable[[jax.Array], jax.Array],
    fused_from: int,
    **options: Any,
) -> LearnedOptimizer:
    """`p <- p - step_mult * rate * |p| * o_0 * exp(exp_mult * o_1)`, |p| the root mean square of the tensor.

    Args:
      name: the architecture's.
      bank: number of MLPs in the bank that is mixed.
      hidden: width of the two hidden layers of the MLPs, which have three outputs (one unused).
      step_mult: scale of the step.
      exp_mult: scale of the second output.
      mix: the LSTM's control outputs, f32[tensors, bank], to the weights of the mixture.
      rate: its rate outputs, f32[tensors], to factors of the step.
      fused_from: see `FusedFrom`.
      **options: of `lstm_optimizer`.
    """
    mlp = transformed(partial(hyper_mlp, sizes=(hidden, hidden, 3), fused_from=fused_from))

    def init(key):
        keys = jax.random.split(key, bank)
        return {"ff_mod_stack": jax.vmap(mlp.init, (0, None))(keys, dummy_tensor(DECAYS))}

    def steps(theta, tensors, count, controls, rates):
        del count
        mixture = mix(controls)
        weights = jax.tree.map(lambda w: jnp.tensordot(mixture, w, 1), theta["ff_mod_stack"])
        rates, found = rate(rates), []
        for i, t in enumerate(tensors):
            o = mlp.apply(jax.tree.map(lambda w, i=i: w[i], weights), t)
            size = jnp.sqrt(jnp.mean(jnp.square(t.param)) + 1e-9)
            found.append(-step_mult * rates[i] * size * direction(o, exp_mult))
        return found

    return lstm_optimizer(name, init, steps, decays=DECAYS, controls=bank, **options)


def lstm_optimizer(
    name: str,
    init_steps: Callable[[jax.Array], dict[str, Any]],
    steps: Callable[..., Sequence[jax.Array]],
    *,
    decays: Decays,
    lstm_hidden: int,
    controls: int = 0,
    tensor_features: Callable[[Tensor], jax.Array] | None = None,
    loss_steps: int | None = None,
    state_dtype: StateDtype,
) -> LearnedOptimizer:
    """An optimizer with an LSTM for each tensor, which sees the training's progress and the loss.

    Args:
      name: the architecture's.
      init_steps: key -> what theta holds in addition to the LSTM.
      steps: `(theta, tensors, count, controls, rates)` -> what is added to each tensor. `count` is the number
        of updates before this one; of M tensors the LSTMs' outputs are f32[M, controls] and f32[M].
      decays: of the accumulators.
      lstm_hidden: size of the LSTM.
      controls: number of its outputs in addition to the rate.
      tensor_features: what the LSTM sees of a tensor, f32[n], in addition to the loss and the fraction of the
        training; None for nothing.
      loss_steps: num_steps of the loss features, if not the horizon.
      state_dtype: of the accumulators that are as large as the parameters.
    """
    rnn = transformed(partial(_recurrent, hidden=lstm_hidden, controls=controls))

    def lstm_inputs(tensors, count, num_steps, losses):
        shared = [fraction_embedding(count, num_steps), losses]
        own = [[] if tensor_features is None else [tensor_features(t)] for t in tensors]
        return jnp.stack([jnp.concatenate(shared + features) for features in own])

    def init(key) -> Theta:
        key_steps, key_rnn = jax.random.split(key)
        inputs = lstm_inputs([dummy_tensor(decays)], jnp.zeros([]), 1, jnp.zeros(9))
        return {
            **init_steps(key_steps),
            "lstm_init_state": init_lstm_state(lstm_hidden),
            "rnn_params": rnn.init(key_rnn, inputs, init_lstm_state(lstm_hidden)),
        }

    def build(theta, num_steps=None):
        def init_fn(params):
            lstm = for_tensors(theta["lstm_init_state"], len(jax.tree.leaves(params)))
            return HyperState(init_state(params, decays, state_dtype), lstm, init_loss_buffer())

        def update(grads, state, params, value):
            grads = jax.tree.map(lambda g: jnp.clip(g, -1000, 1000), grads)
            losses, buffer = push_loss(state.losses, value, num_steps if loss_steps is None else loss_steps)
            tensors, seen = observe(grads, state.seen, params, decays, diag_eps=0.0)
            before = jax.tree.structure(params).flatten_up_to(state.seen.acc)
            before = [t._replace(acc=widened(acc)) for t, acc in zip(tensors, before, strict=True)]
            inputs = lstm_inputs(before, state.seen.count, num_steps, losses)
            *outputs, lstm = rnn.apply(theta["rnn_params"], inputs, state.lstm)
            found = steps(theta, tensors, state.seen.count, *outputs)
            return tree_like(found, params), HyperState(seen, lstm, buffer)

        needs = ("params", "num_steps", "value")
        return transformation(name, init_fn, update, needs=needs, num_steps=num_steps)

    return LearnedOptimizer(init, build, needs=("num_steps", "value"))


def tensor_statistics(t: Tensor) -> jax.Array:
    """What VeLO's LSTM sees of a tensor, f32[12]; its accumulators have not seen the gradient yet."""
    n = t.acc.momentum.shape[-1]
    means = tensor_means(lambda t: [t.acc.momentum, t.acc.rms, jnp.square(t.param)[..., None]], t)
    mean_m, mean_v, scale = means[:n], means[n:-1], rsqrt(jnp.maximum(1e-9, means[-1]))
    # The variance of v is about the mean of m: so it was trained.
    centred = tensor_means(lambda t: [jnp.square(x - mean_m) for x in (t.acc.momentum, t.acc.rms)], t)
    var_m, var_v = jnp.square(scale) * centred[:n], jnp.square(scale) * centred[n:]
    mean_v, var_m, var_v = (0.5 * log_magnitude(10 * x) for x in (scale * mean_v, var_m, var_v))
    rank = jax.nn.one_hot(sum(size > 1 for size in t.grad.shape), 5)
    return jnp.concatenate([mean_v, rank, var_m, var_v])


def _recurrent(x, state, *, hidden: int, controls: int):
    hk.Linear(hidden)(x)  # unused, but part of theta
    pooled = jnp.max(jax.nn.relu(hk.Linear(hidden)(x)), axis=0, keepdims=True)
    x, state = hk.LSTM(hidden, name="rnn")(hk.Linear(hidden)(x) + pooled, state)
    outputs = hk.Linear(controls, name="rnn_to_controls")(x) if controls else jnp.zeros([len(x), 0])
    return outputs, hk.Linear(1, name="step_size")(x)[:, 0], state
