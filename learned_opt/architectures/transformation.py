"""From an architecture's two pure functions to an optax transformation: the rules all architectures share."""

import contextlib
import contextvars
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.core import Tracer
from jax.tree_util import tree_leaves_with_path

from learned_opt.architectures.explicit_mesh import on_mesh_of_params, sharded_by_compiler
from learned_opt.architectures.options import check_num_steps

_SKIPPED = optax.MaskedNode()  # a pytree without leaves: stands for a leaf that is not optimized


def transformation(
    name: str,
    init: Callable[[Any], Any],
    update: Callable[..., tuple[Any, Any]],
    *,
    needs: tuple[str, ...] = (),
    num_steps: Any = None,
    skip_nonfinite: bool | None = None,
) -> optax.GradientTransformationExtraArgs:
    """`init(params) -> state` and `update(grads, state, params, value) -> (updates, state)` as optax's.

    What the two functions see, and so need not care about:

    * Every leaf is float32 and has elements; updates are cast to the dtype of the parameters
      (accumulators stay float32 for bfloat16 parameters).
    * Leaves that are not real floating-point numbers (integers, booleans, float0 gradients) and
      leaves without elements are skipped: the functions do not see them, their update is zero.
    * A parameter tree without any leaf to optimize never reaches `update`.
    * Gradients that are not finite cost a step, not the run: where an element of a gradient, or the value if
      `needs` names it, is infinite or NaN, the updates are zero and the state stays as it was.

    Args:
      name: the architecture's, for the error messages.
      init: as above.
      update: as above; `value` is None unless `needs` names it. The updates are to be added.
      needs: "params" and "value" are demanded of every call of `update`, "num_steps" here.
      num_steps: what `build` was given.
      skip_nonfinite: False hands non-finite gradients to `update`, as the code does that an architecture
        was ported from; None takes what `non_finite_steps` says, which is True unless it was called.

    Returns:
      The transformation. Its `update` raises ValueError if something it needs is missing.

    Raises:
      ValueError: `num_steps` is needed and None, or not a whole number >= 1; later, a complex leaf.
    """
    if "num_steps" in needs and num_steps is None:
        raise ValueError(
            f"{name} needs num_steps, the number of steps of the training to come: pass num_steps=..."
        )

    check_num_steps(num_steps)
    if _SKIP_NONFINITE.get() if skip_nonfinite is None else skip_nonfinite:
        update = skipping_nonfinite(update, with_value="value" in needs, branch=not _UNDER_VMAP.get())
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


def skipping_nonfinite(
    update: Callable[..., tuple[Any, Any]], *, with_value: bool = False, branch: bool = True
) -> Callable[..., tuple[Any, Any]]:
    """`update(grads, state, params, value)` that does nothing where a gradient is not finite.

    Where all is finite the result is that of `update`, in all bits. `update` never sees what is not finite,
    so that derivatives with respect to theta stay finite, too.

    Args:
      update: of an architecture, on float32 leaves.
      with_value: whether the value must be finite as well.
      branch: whether the program branches. That keeps the state in its memory: with a selection for each
        leaf, its old and new values are there at once, and a step on a large model takes 1.3 to 2.3 times as
        long. Where JAX makes a selection of the branch (under `vmap`), False is faster, and it alone keeps
        derivatives finite (`under_vmap`).
    """

    def guarded(grads, state, params, value):
        finite = [jnp.all(jnp.isfinite(g)) for g in jax.tree.leaves(grads)]
        if with_value:
            finite.append(jnp.all(jnp.isfinite(value)))
            value = jnp.where(finite[-1], value, jnp.zeros_like(value))
        # All are finite if the least is the first. XLA would put a plain conjunction into the program of
        # every leaf again, which takes most of the time of compilation.
        ok = jnp.argmin(jnp.stack([jnp.bool_(True), *finite])) == 0
        zeros = jax.tree.map(jnp.zeros_like, grads)

        def new():
            steps, after = update(grads, state, params, value)
            return steps, _like(state, after)

        if not branch:
            grads = jax.tree.map(lambda g, zero: jnp.where(ok, g, zero), grads, zeros)
            return jax.tree.map(lambda x, old: jnp.where(ok, x, old), new(), (zeros, state))
        if not isinstance(ok, Tracer):  # without jit, where `cond` would compile in every call
            return new() if ok else (zeros, state)
        return jax.lax.cond(ok, new, lambda: (zeros, state))

    return guarded


def _like(old: Any, new: Any) -> Any:
    """`new` in the structure of `old`: Flax NNX hands a NamedTuple back as a mapping, in another order."""
    if jax.tree.structure(old) == jax.tree.structure(new):
        return new
    leaves = {jax.tree_util.keystr(path, simple=True): x for path, x in tree_leaves_with_path(new)}
    return jax.tree_util.tree_map_with_path(
        lambda path, _: leaves[jax.tree_util.keystr(path, simple=True)], old
    )


_UNDER_VMAP = contextvars.ContextVar("under_vmap", default=False)
_SKIP_NONFINITE = contextvars.ContextVar("skip_nonfinite", default=True)


@contextlib.contextmanager
def _within(variable: contextvars.ContextVar[bool], value: bool) -> Iterator[None]:
    token = variable.set(value)
    try:
        yield
    finally:
        variable.reset(token)


def under_vmap() -> contextlib.AbstractContextManager[None]:
    """Optimizers that are built in here run under `vmap`, where JAX makes a slower selection of a branch.

    Derivatives of such a selection may be NaN where a gradient is not finite.
    """
    return _within(_UNDER_VMAP, True)


def non_finite_steps(skipped: bool) -> contextlib.AbstractContextManager[None]:
    """Whether optimizers that are built in here skip steps whose gradients are not finite.

    With `skipped` false they do what the code did that they were ported from: most become NaN for good.
    """
    return _within(_SKIP_NONFINITE, skipped)


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
