"""RNN-MLP: an LSTM for each tensor and an MLP for each parameter, which exchange messages."""

from typing import NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from jax.lax import rsqrt

from learned_opt.architectures import options
from learned_opt.architectures.features import (
    LARGE,
    TIMESCALES,
    Decays,
    State,
    Tensor,
    init_state,
    observe,
)
from learned_opt.architectures.network import direction, dummy_tensor, haiku_mlp, transformed, tree_like
from learned_opt.architectures.options import checked
from learned_opt.architectures.recurrent import for_tensors, init_lstm_state, log_magnitude, moments, norm
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer, Theta

FEATURES = ("grad", "param", "log_abs_param", "momentum", "rms", "adam", "rsqrt_rms")


class RunningLoss(NamedTuple):
    """Mean and variance of the loss, f32[] each, decay .9, without bias correction; and how many, f32[]."""

    mean: jax.Array
    var: jax.Array
    count: jax.Array


class RunningClip(NamedTuple):
    """The gradients' root mean square, f32[], decay .99, and its bias correction's count, f32[]."""

    count: jax.Array
    size: jax.Array


class RNNMLPState(NamedTuple):
    """State of RNN-MLP; M tensors in JAX's flatten order.

    Attributes:
      seen: count and accumulators.
      lstm: hidden and cell, f32[M, lstm_hidden].
      from_mlp: the MLPs' messages to the LSTMs, f32[M, from_mlp].
      from_lstm: the LSTMs' message to one another, f32[from_lstm].
      loss: running statistics of the loss.
      clip: running size of the gradients.
    """

    seen: State
    lstm: hk.LSTMState
    from_mlp: jax.Array
    from_lstm: jax.Array
    loss: RunningLoss
    clip: RunningClip


@checked
def rnn_mlp(
    *,
    hidden: options.Hidden = 32,
    num_hidden: options.NumHidden = 2,
    lstm_hidden: options.LstmHidden = 64,
    from_mlp: options.Size = 16,
    from_lstm: options.Size = 18,
    lstm_to_ff: options.Size = 17,
    step_mult: options.StepMult = 1e-3,
    exp_mult: options.ExpMult = 1e-3,
    decays: tuple[options.Decay, ...] = (0.5, 0.9, 0.99, 0.999, 0.9999),
    fused_from: options.FusedFrom = LARGE,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """Hierarchical RNN-MLP (Metz et al. 2020): `p <- p - step_mult * o_0 * exp(exp_mult * o_1)`.

    o is the output, for this parameter, of an MLP on normalised features of it, on the time and on a message
    from the tensor's LSTM. The LSTM sees statistics of the tensor, the loss, the mean of the MLP's further
    outputs over the tensor, and the mean of the messages of all LSTMs at the last step. Gradients are
    clipped at 10 times their running root mean square.
    theta (35,799 meta-parameters at the defaults): `ffmod_params`, `rnn_params`, `rnn_to_ff_params`,
    `rnn_to_in_params`, `lstm_init_state`, `initial_from_lstm`, `initial_from_mlp`.

    Args:
      from_mlp: size of the MLP's message to the LSTM.
      from_lstm: size of the LSTMs' message to all LSTMs.
      lstm_to_ff: size of the LSTM's message to the MLP.
      decays: of the running means of g and of g^2; each in [0, 1), at least one.

    Raises:
      ValueError: decays is empty.

    State: 40 bytes a parameter, 8 lstm_hidden + 64 a tensor.
    Inputs: 23 features a parameter; the time; what the tensor's LSTM says, which sees statistics of
    the tensor and the loss.
    Outputs: a direction and the logarithm of its size, for each parameter; messages.
    Source: arXiv 2009.11243, RNNMLPLOpt of google/learned_optimization. Differs from it in: there is no
    call with a validation loss; its feature is always what it is without one.
    """
    if not decays:
        raise ValueError(f"decays must not be empty, got {decays}")
    all_decays = Decays(momentum=tuple(decays), rms=tuple(decays))
    sizes = [hidden] * num_hidden + [2 + from_mlp]
    mlp = haiku_mlp(FEATURES, sizes, fused_from)
    rnn = transformed(lambda x, state: hk.LSTM(lstm_hidden, name="rnn")(x, state))
    to_ff = transformed(lambda x: hk.Linear(lstm_to_ff, name="rnn_to_ff")(x))
    to_in = transformed(lambda x: hk.Linear(from_lstm, name="rnn_to_in")(x))

    def build(theta, num_steps=None):
        del num_steps

        def init_fn(params):
            tensors = len(jax.tree.leaves(params))
            zero = jnp.zeros([])
            return RNNMLPState(
                init_state(params, all_decays, state_dtype),
                for_tensors(theta["lstm_init_state"], tensors),
                jnp.broadcast_to(theta["initial_from_mlp"], (tensors, from_mlp)),
                theta["initial_from_lstm"],
                RunningLoss(zero, zero, zero),
                RunningClip(jnp.ones([]), jnp.full([], 0.01, jnp.float32)),
            )

        def update(grads, state, params, value):
            losses, loss = _see_loss(state.loss, value)
            grads, clip = _clip(state.clip, grads)
            tensors, seen = observe(grads, state.seen, params, all_decays)
            each = zip(tensors, jax.tree.leaves(params), state.from_mlp, strict=True)
            inputs = [_lstm_inputs(t, p.shape, losses, sent, state.from_lstm) for t, p, sent in each]
            x, lstm = rnn.apply(theta["rnn_params"], jnp.stack(inputs), state.lstm)
            shared = _mlp_inputs(tensors, state.seen.count, to_ff.apply(theta["rnn_to_ff_params"], x))
            o = mlp.apply(theta["ffmod_params"], tensors, shared)
            steps = tree_like([-step_mult * direction(o, exp_mult) for o in o], params)
            from_mlp = jnp.stack([jnp.mean(o[..., 2:], tuple(range(o.ndim - 1))) for o in o])
            from_lstm = jnp.mean(to_in.apply(theta["rnn_to_in_params"], x), axis=0)
            return steps, RNNMLPState(seen, lstm, from_mlp, from_lstm, loss, clip)

        return transformation("rnn_mlp", init_fn, update, needs=("params", "value"))

    def init(key):
        widths = (lstm_hidden, from_mlp, from_lstm, lstm_to_ff)
        return _initial_theta(key, (mlp, rnn, to_ff, to_in), all_decays, widths)

    return LearnedOptimizer(init, build, needs=("value",))


def _initial_theta(key, networks, decays: Decays, sizes: tuple[int, int, int, int]) -> Theta:
    """theta from the networks in the order of its keys, and lstm_hidden, from_mlp, from_lstm, lstm_to_ff."""
    (mlp, rnn, to_ff, to_in), (lstm_hidden, from_mlp, from_lstm, lstm_to_ff) = networks, sizes
    messages = hk.transform(
        lambda: (_message("initial_from_lstm", from_lstm), _message("initial_from_mlp", from_mlp))
    )
    keys = jax.random.split(key, 5)
    lstm, shared = init_lstm_state(lstm_hidden), jnp.zeros(len(TIMESCALES) + 3 + lstm_to_ff)
    return {
        "ffmod_params": mlp.init(keys[0], [dummy_tensor(decays)], shared),
        "lstm_init_state": lstm,
        "rnn_params": rnn.init(keys[1], jnp.zeros([1, 18 + from_lstm + from_mlp]), lstm),
        "rnn_to_ff_params": to_ff.init(keys[2], jnp.zeros([1, lstm_hidden])),
        "rnn_to_in_params": to_in.init(keys[3], jnp.zeros([1, lstm_hidden])),
        **messages.init(keys[4])["~"],
    }


def _message(name: str, size: int) -> jax.Array:
    return hk.get_parameter(name, (size,), init=hk.initializers.VarianceScaling())


def _see_loss(state: RunningLoss, loss: jax.Array) -> tuple[tuple[jax.Array, jax.Array], RunningLoss]:
    """The loss and 0 (for the validation loss), both standardised and clipped; and the new statistics."""
    mean = 0.9 * state.mean + 0.1 * loss
    var = 0.9 * state.var + 0.1 * jnp.square(mean - loss)
    count = state.count + 1
    correction = 1 / ((1 - 0.9**count) + 1e-8)

    def standardised(x):
        return jnp.clip((x - mean * correction) * rsqrt(var * correction + 1e-8), -5, 5)

    return (standardised(loss), standardised(0.0)), RunningLoss(mean, var, count)


def _clip(state: RunningClip, grads):
    """Gradients clipped, element by element, at 10 times their usual size."""
    limit = 10 * state.size / (1 - 0.99**state.count)
    grads = jax.tree.map(lambda g: jnp.clip(g, -limit, limit), grads)
    means = [jnp.mean(jnp.square(g)) for g in jax.tree.leaves(grads)]
    size = 0.99 * state.size + 0.01 * jnp.sqrt(1e-8 + sum(means) / len(means))
    return grads, RunningClip(state.count + 1, size)


def _lstm_inputs(t: Tensor, shape: tuple[int, ...], losses, from_mlp, from_lstm) -> jax.Array:
    """f32[18 + ...], in the alphabetical order of the original's names."""
    (mean_m, var_m), (mean_v, var_v), (mean_p, var_p) = map(moments, (t.acc.momentum, t.acc.rms, t.param))
    sizes = [jnp.log(float(size)) - 1 for size in (*shape[:4], 1, 1, 1, 1)[:4]]
    features = [
        *(from_lstm, from_mlp),
        *(log_magnitude(norm(t.grad)), 1.0 if shape == () else -1.0),
        *(log_magnitude(mean_m), jnp.sign(mean_m)),
        *(log_magnitude(mean_v), jnp.sign(mean_v)),
        *(log_magnitude(mean_p), jnp.sign(mean_p)),
        *(log_magnitude(norm(t.param)), *sizes, *losses),
        *map(log_magnitude, (var_m, var_v, var_p)),
    ]
    return jnp.concatenate([jnp.atleast_1d(feature) for feature in features])


def _mlp_inputs(tensors: list[Tensor], count: jax.Array, from_lstm: jax.Array) -> jax.Array:
    """What the parameters of a tensor share, f32[M, 14 + lstm_to_ff]."""
    time = jnp.sin(count / (jnp.asarray(TIMESCALES, jnp.float32) * jnp.pi))

    def of_tensor(t):
        sizes = jnp.stack([jnp.log(len(tensors)) - 1, jnp.log(norm(t.param) + 1e-8), jnp.log(t.param.size)])
        return jnp.concatenate([time, sizes])

    return jnp.concatenate([jnp.stack([of_tensor(t) for t in tensors]), from_lstm], axis=1)
