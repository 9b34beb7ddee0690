"""From an architecture's two pure functions to an optax transformation: the rules all architectures share."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from learned_opt.architectures.explicit_mesh import on_mesh_of_params, sharded_by_compiler

_SKIPPED = optax.MaskedNode()  # a pytree without leaves: stands for a leaf that is not optimized


def transformation(
    name: str,
    init: Callable[[Any], Any],
    update: Callable[..., tuple[Any, Any]],
    *,
    needs: tuple[str, ...] = (),
    num_steps: Any = None,
) -> optax.GradientTransformationExtraArgs:
    """`init(params) -> state` and `update(grads, state, params, value) -> (updates, state)` as optax's.

    What the two functions see, and so need not care about:

    * Every leaf is float32 and has elements; updates are cast to the dtype of the parameters
      (accumulators stay float32 for bfloat16 parameters).
    * Leaves that are not real floating-point numbers (integers, booleans, float0 gradients) and
      leaves without elements are skipped: the functions do not see them, their update is zero.
    * A parameter tree without any leaf to optimize never reaches `update`.

    Args:
      name: the architecture's, for the error messages.
      init: as above.
      update: as above; `value` is None unless `needs` names it. The updates are to be added.
      needs: "params" and "value" are demanded of every call of `update`, "num_steps" here.
      num_steps: what `build` was given.

    Returns:
      The transformation. Its `update` raises ValueError if something it needs is missing.

    Raises:
      ValueError: `num_steps` is needed and None; later, a complex leaf.
    """
    if "num_steps" in needs and num_steps is None:
        raise ValueError(
            f"{name} needs num_steps, the number of steps of the training to come: pass num_steps=..."
        )

    init, update = on_mesh_of_params(init), sharded_by_compiler(update)

    def init_fn(params):
        return init(jax.tree.map(_float32, params, params))

    def update_fn(updates, state, params=None, *, value=None, **extra_args):
        del extra_args
        if params is None and "params" in needs:
            raise ValueError(f"{name} needs the parameters: call update(grads, state, params)")
        if value is None and "value" in needs:
            raise ValueError(f"{name} needs the training loss: call update(grads, state, params, value=loss)")
        like = updates if params is None else params
        grads = jax.tree.map(_float32, updates, like)
        if not jax.tree.leaves(grads):
            return jax.tree.map(jnp.zeros_like, like), state
        value = None if value is None else jnp.asarray(value, jnp.float32)
        params = None if params is None else jax.tree.map(_float32, params, like)
        steps, state = update(grads, state, params, value)
        return jax.tree.map(_in_dtype_of, like, steps), state

    return optax.GradientTransformationExtraArgs(init_fn, update_fn)


def _optimized(p: Any) -> bool:
    dtype, shape = jnp.result_type(p), jnp.shape(p)
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise ValueError(
            f"complex parameters ({dtype.name}{list(shape)}) are not supported as they are: "
            "wrap the optimizer in optax.contrib.split_real_and_imaginary"
        )
    return jnp.issubdtype(dtype, jnp.floating) and 0 not in shape


def _float32(x: Any, like: Any) -> Any:
    return jnp.asarray(x, jnp.float32) if _optimized(like) else _SKIPPED


def _in_dtype_of(like: Any, step: Any) -> jax.Array:
    return step.astype(jnp.result_type(like)) if _optimized(like) else jnp.zeros_like(like)
