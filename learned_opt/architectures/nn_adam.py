"""NNAdam: an LSTM for each tensor moves the hyperparameters of that tensor's Adam."""

from typing import Annotated, Any, NamedTuple

import haiku as hk
import jax
import jax.numpy as jnp
from annotated_types import Interval

from learned_opt.architectures import options
from learned_opt.architectures.network import transformed
from learned_opt.architectures.options import checked
from learned_opt.architectures.recurrent import for_tensors, init_lstm_state, log_magnitude, moments
from learned_opt.architectures.rounding import stored_in
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer


class NNAdamState(NamedTuple):
    """State of NNAdam; M tensors in JAX's flatten order.

    Attributes:
      m: running mean of g, like the parameters.
      v: running mean of g^2, like the parameters.
      hyper: hyperparameters, f32[M, 4]: lr, beta1, beta2, epsilon as in theta.
      lstm: hidden and cell, f32[M, lstm_hidden].
    """

    m: Any
    v: Any
    hyper: jax.Array
    lstm: hk.LSTMState


@checked
def nn_adam(
    *,
    lstm_hidden: options.LstmHidden = 32,
    output_scale: options.Rate = 0.01,
    decay_strength: Annotated[float, Interval(ge=0, le=1)] = 0.0,
    initial_lr: Annotated[float, Interval(ge=1e-8, le=1e3)] = 1e-4,
    initial_beta1: options.Decay = 0.9,
    initial_beta2: options.Decay = 0.999,
    initial_epsilon: Annotated[float, Interval(ge=1e-11, le=1e4)] = 1e-8,
    state_dtype: options.StateDtype = "float32",
) -> LearnedOptimizer:
    """Adam whose hyperparameters an LSTM moves, tensor by tensor (Metz et al. 2020).

    `p <- p - lr (1 + epsilon) m / (epsilon + sqrt(v + 1e-10))`, without bias correction

    After each step the LSTM adds to log lr, log (1 - beta1), log (1 - beta2), log epsilon of the tensor, all
    times 0.1, `output_scale` times its outputs. It sees these four and statistics of p, g, m, v.
    theta (6,856 meta-parameters at the defaults): the initial `per_layer_{lr,beta1,beta2,epsilon}`,
    `lstm_init_state`, `rnn_params`, `rnn_to_controls_params` (initially zero).

    Args:
      output_scale: scale of its outputs; > 0.
      decay_strength: how far hyperparameters go back to theta's values every step; in [0, 1].
      initial_lr: at initialisation; in [1e-8, 1e3], where it is kept always.
      initial_beta1: at initialisation; in [0, 1).
      initial_beta2: at initialisation; in [0, 1).
      initial_epsilon: at initialisation; in [1e-11, 1e4], where it is kept always.

    State: 8 bytes a parameter, 8 lstm_hidden + 16 a tensor.
    Inputs: for a tensor's LSTM, its Adam's hyperparameters, and means and variances of p, g, m, v.
    Outputs: changes of four hyperparameters, for each tensor.
    Source: NNAdam of google/learned_optimization. Differs from it in: it does not ask for the horizon,
    which the original never uses.
    """
    rnn = transformed(lambda x, state: hk.LSTM(lstm_hidden, name="rnn")(x, state))
    head = transformed(lambda x: hk.Linear(4, name="rnn_to_controls", w_init=jnp.zeros)(x))

    def init(key):
        state = init_lstm_state(lstm_hidden)
        initial = jnp.array([initial_lr, initial_beta1, initial_beta2, initial_epsilon], jnp.float32)
        initial = dict(zip(_NAMES, _encode(initial), strict=True))
        return {
            "lstm_init_state": state,
            "rnn_params": rnn.init(key, jnp.zeros([1, 19]), state),
            "rnn_to_controls_params": head.init(key, jnp.zeros([1, lstm_hidden])),
            **initial,
        }

    def build(theta, num_steps=None):
        del num_steps
        start = jnp.stack([theta[name] for name in _NAMES])

        def init_fn(params):
            tensors = len(jax.tree.leaves(params))
            zeros = jax.tree.map(jnp.zeros_like, params)
            hyper = jnp.broadcast_to(start, (tensors, 4))
            return NNAdamState(zeros, zeros, hyper, for_tensors(theta["lstm_init_state"], tensors))

        def update(grads, state, params, value):
            del value
            leaves, tree = jax.tree.flatten(params)
            like = map(tree.flatten_up_to, (grads, state.m, state.v))
            found = [_adam(*seen) for seen in zip(leaves, *like, state.hyper, strict=True)]
            steps, m, v, inputs = map(list, zip(*found, strict=True))
            x, lstm = rnn.apply(theta["rnn_params"], jnp.stack(inputs), state.lstm)
            hyper = state.hyper + output_scale * head.apply(theta["rnn_to_controls_params"], x)
            hyper = hyper - decay_strength * (hyper - start)
            hyper = jax.vmap(lambda h: _encode(_decode(h)))(hyper)  # keeps them in their ranges
            return tree.unflatten(steps), NNAdamState(tree.unflatten(m), tree.unflatten(v), hyper, lstm)

        def map_large(f, state):
            return state._replace(m=jax.tree.map(f, state.m), v=jax.tree.map(f, state.v))

        stored = stored_in(state_dtype, init_fn, update, map_large)
        return transformation("nn_adam", *stored, needs=("params",))

    return LearnedOptimizer(init, build)


_NAMES = ("per_layer_lr", "per_layer_beta1", "per_layer_beta2", "per_layer_epsilon")


def _adam(p, g, m, v, hyper) -> tuple[jax.Array, ...]:
    """The step of one tensor, its m and v after that, and what its LSTM sees."""
    g = jnp.clip(g, -1000, 1000)
    lr, beta1, beta2, epsilon = _decode(hyper)
    m = beta1 * m + (1 - beta1) * g
    v = beta2 * v + (1 - beta2) * jnp.square(g)
    step = -lr * (1 + epsilon) / (epsilon + jnp.sqrt(v + 1e-10)) * m
    return step, m, v, _lstm_inputs(p, g, m, v, hyper)


def _encode(values: jax.Array) -> jax.Array:
    """lr, beta1, beta2, epsilon (f32[4]) as theta and the state hold them: 0.1 log of x or of 1 - x."""
    lr, beta1, beta2, epsilon = values
    return 0.1 * jnp.log(jnp.stack([lr, 1 - beta1, 1 - beta2, epsilon]))


def _decode(hyper: jax.Array) -> jax.Array:
    lr, epsilon = jnp.exp(10 * hyper[0]), jnp.exp(10 * hyper[3])
    beta1, beta2 = 1 - jnp.exp(jnp.clip(10 * hyper[1:3], -10, 0))
    return jnp.stack([jnp.clip(lr, 1e-8, 1e3), beta1, beta2, jnp.clip(epsilon, 1e-11, 1e4)])


def _lstm_inputs(p, g, m, v, hyper) -> jax.Array:
    """f32[19], in the alphabetical order of the original's names."""
    (mean_p, var_p), (mean_g, var_g), (mean_m, var_m), (mean_v, var_v) = map(moments, (p, g, m, v))
    mag = lambda x: 0.5 * log_magnitude(x)  # noqa: E731
    lr, beta1, beta2, epsilon = 0.2 * jnp.clip(hyper, -5, 5)
    features = [
        *(beta1, beta2, epsilon, 1.0 if p.ndim == 1 else -1.0, 1.0 if p.ndim == 0 else -1.0, lr),
        *(mag(mean_g), jnp.sign(mean_g), mag(jnp.mean(jnp.abs(g)))),
        *(mag(mean_m), jnp.sign(mean_m), mag(mean_p), jnp.sign(mean_p), mag(mean_v), jnp.sign(mean_v)),
        *map(mag, (var_g, var_m, var_p, var_v)),
    ]
    return jnp.stack([jnp.asarray(feature, jnp.float32) for feature in features])
