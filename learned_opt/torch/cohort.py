"""Parameters that are optimized together: one state, one compiled update."""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports] - optional

from learned_opt.torch.layout import Axes, inverse, tree_of
from learned_opt.torch.rule import Rule
from learned_opt.torch.views import add_in_place, argument, checked_tensor, jax_device, restored, stored

# Up to so many numbers on a CPU, JAX copies the parameters and writes the steps over the copy. XLA's plan for
# that saves VeLO and `residual` a tenth of a step of 1M parameters; at 10M the fresh memory costs more.
FEW = 2**22


class Cohort(NamedTuple):
    """Parameters that had their first gradient in the same step, in JAX's flatten order of their tree.

    Attributes:
      params: M tensors.
      index: of each, its position in the optimizer.
      device: where they are.
      num_steps: of the training that lay before them at that step.
      update: jitted, `(decays, buffers, state, params, grads, rates, value) -> (steps, state)`.
      state: of the transformation.
      buffers: the memory of the steps to come, those of the last step; None on a GPU, and for few parameters
        (FEW). On a CPU fresh memory would cost large ones as much time as a simple rule, because every page
        of it is mapped when it is first written.
    """

    params: list[torch.Tensor]
    index: list[int]
    device: torch.device
    num_steps: int | None
    update: Any
    state: Any
    buffers: list[jax.Array] | None


class Member(NamedTuple):
    """A parameter, its position in the optimizer, its name, and its axes as the rule sees them."""

    param: torch.Tensor
    index: int
    name: str
    axes: Axes


def begin(rule: Rule, members: Sequence[Member], num_steps: int | None, leaves: Any = None) -> Cohort:
    """The cohort of some parameters, at its first step or with the state that `saved` wrote.

    Args:
      rule: of the optimizer.
      members: the parameters.
      num_steps: of the training to come.
      leaves: of the state, tensors.

    Raises:
      TypeError, ValueError: the parameters are on several devices, or not such as JAX computes with; two have
        the same name; the leaves are not those of such a state.
    """
    devices = sorted({str(member.param.device) for member in members})
    if len(devices) > 1:
        raise ValueError(f"the parameters are on {' and '.join(devices)}; one optimizer, one device")
    params = [checked_tensor(member.name, member.param) for member in members]
    order, tree = jax.tree.flatten(tree_of([member.name for member in members]))
    members, params = [members[i] for i in order], [params[i] for i in order]
    orders = [member.axes for member in members]
    make_state, device = _initial(rule, num_steps, tree, orders), params[0].device
    with jax.default_device(jax_device(device)):
        state = make_state([argument(p) for p in params])
        state = state if leaves is None else _restored(leaves, state)
        few, on_cpu = sum(p.numel() for p in params) <= FEW, device.type == "cpu"
        buffers = [jnp.zeros_like(argument(p)) for p in params] if on_cpu and not few else None
    update = _update(rule, num_steps, tree, orders, copied=on_cpu and few)
    index = [member.index for member in members]
    return Cohort(params, index, device, num_steps, update, state, buffers)


def take_step(cohort: Cohort, rates: Sequence[float], decays: tuple[float | None, ...], value: Any) -> Cohort:
    """Moves those of the parameters that have a gradient; the others count as having gradient zero.

    Args:
      cohort: of M parameters; its state and its buffers are used up.
      rates: M relative learning rates.
      decays: M weight decays, None for the rule's own; a new combination compiles the update again.
      value: the loss, a number or an array, or None.
    """
    params = cohort.params
    grads = [torch.zeros_like(p) if p.grad is None else p.grad for p in params]
    views = [argument(p) for p in params], [argument(g) for g in grads]
    with jax.default_device(jax_device(cohort.device)):
        factors = np.asarray(rates, np.float32)
        steps, state = cohort.update(decays, cohort.buffers, cohort.state, *views, factors, value)
    if cohort.device.type == "cpu":
        jax.block_until_ready((steps, state))  # it reads the memory that is written next
    add_in_place([(p, step) for p, step in zip(params, steps, strict=True) if p.grad is not None])
    return cohort._replace(state=state, buffers=None if cohort.buffers is None else steps)


def saved(cohort: Cohort) -> dict[str, Any]:
    """What a state dict stores of it: numbers and tensors."""
    leaves = [stored(leaf) for leaf in jax.tree.leaves(cohort.state)]
    return {"params": cohort.index, "num_steps": cohort.num_steps, "state": leaves}


def _initial(rule, num_steps, tree, orders):
    """Jitted, `(params) -> state`; no weight decay changes a state."""

    @jax.jit
    def initial(params):
        return rule.build(num_steps, None).init(_seen(tree, orders, params))

    return initial


def _update(rule, num_steps, tree, orders, copied):
    # What is PyTorch's memory is copied when it is donated.
    donated = (2, 3) if copied else (1, 2)

    @functools.partial(jax.jit, static_argnums=0, donate_argnums=donated, keep_unused=not copied)
    def update(decays, buffers, state, params, grads, rates, value):
        del buffers  # if there are any, the steps are written there
        seen, extra = _seen(tree, orders, params), {} if value is None else {"value": value}
        # With every weight decay that occurs: the compiler computes once what does not depend on it.
        every = {
            decay: rule.build(num_steps, decay).update(_seen(tree, orders, grads), state, seen, **extra)
            for decay in dict.fromkeys(decays)
        }
        leaves = {decay: jax.tree.leaves(steps) for decay, (steps, _) in every.items()}
        steps = [
            (rates[i] * leaves[decay][i]).astype(p.dtype).transpose(inverse(order))
            for i, (decay, p, order) in enumerate(zip(decays, params, orders, strict=True))
        ]
        return steps, every[decays[0]][1]

    return update


def _seen(tree, orders, arrays):
    """The arrays as the rule sees them."""
    return tree.unflatten([x.transpose(order) for x, order in zip(arrays, orders, strict=True)])


def _restored(leaves, state):
    like, tree = jax.tree.flatten(state)
    found = [restored(x, want) for x, want in zip(leaves, like, strict=False)]
    if len(leaves) != len(like) or any(x is None for x in found):
        raise ValueError("the state is not of this optimizer on these parameters: it has other tensors")
    return tree.unflatten(found)
