"""The skeleton of the optimizers whose state is a count and accumulators: from tensors to their steps."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax

from learned_opt.architectures.features import Decays, Tensor, init_state, observe
from learned_opt.architectures.network import tree_like
from learned_opt.architectures.options import StateDtype
from learned_opt.architectures.transformation import transformation
from learned_opt.base import LearnedOptimizer, Params, Theta


class Seen(NamedTuple):
    """What an update is computed from.

    Attributes:
      tensors: of the parameters in JAX's flatten order; they have seen the gradients of this update.
      count: i32[], updates before this one.
      num_steps: T, as given to `build`.
      params: tree of f32 arrays.
    """

    tensors: list[Tensor]
    count: jax.Array
    num_steps: Any
    params: Params


def feature_optimizer(
    name: str,
    init: Callable[[jax.Array], Theta],
    steps: Callable[[Theta, Seen], Sequence[jax.Array]],
    *,
    decays: Callable[[Theta, Params], Decays | Sequence[Decays]],
    state_dtype: StateDtype,
    clip: Callable[[Params], Params] = lambda grads: grads,
    rms_eps: float = 1e-6,
    needs: tuple[str, ...] = (),
) -> LearnedOptimizer:
    """A learned optimizer whose `update` is `steps(theta, seen)`.

    Args:
      name: the architecture's, for the error messages.
      init: key -> theta.
      steps: what is added to each tensor, f32[*P_1] ... f32[*P_M].
      decays: of the accumulators, for all tensors or for each.
      state_dtype: of the accumulators that are as large as the parameters.
      clip: applied to the tree of gradients before anything else.
      rms_eps: see `Tensor`.
      needs: as of `LearnedOptimizer`; "value" is not supported.
    """

    def build(theta, num_steps=None):
        def init_fn(params):
            return init_state(params, decays(theta, params), state_dtype)

        def update(grads, state, params, value):
            del value
            given = clip(grads), state, params, decays(theta, params)
            tensors, after = observe(*given, rms_eps=rms_eps)
            return tree_like(steps(theta, Seen(tensors, state.count, num_steps, params)), params), after

        return transformation(name, init_fn, update, needs=("params", *needs), num_steps=num_steps)

    return LearnedOptimizer(init, build, needs)
