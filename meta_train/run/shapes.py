"""Refuses, by abstract evaluation, what would fail or fill the memory once it is compiled."""

import math
import os
from typing import Any

import jax
import jax.numpy as jnp

from learned_opt import LearnedOptimizer
from meta_train.core.system import UnrolledSystem
from meta_train.estimators import GradientEstimator


def check_system(system: UnrolledSystem, lopt: LearnedOptimizer, data: Any) -> None:
    """Refuses, by shapes alone, a system that estimators cannot unroll (ValueError)."""
    key = jax.random.key(0)
    theta = jax.eval_shape(lopt.init, key)
    state, _ = jax.eval_shape(system.init, theta, key)
    after, loss = jax.eval_shape(system.step, theta, state, key, data)
    if loss.shape != () or not jnp.issubdtype(loss.dtype, jnp.floating):
        raise ValueError(f"loss must be one float, got {loss.dtype}{list(loss.shape)}")
    before = jax.tree_util.tree_leaves_with_path(state)
    for (path, a), b in zip(before, jax.tree.leaves(after), strict=True):
        if (a.shape, a.dtype) != (b.shape, b.dtype):
            where = jax.tree_util.keystr(path)
            raise ValueError(
                f"state{where} must keep its shape and type in a step, got {a.dtype}{list(a.shape)}, "
                f"then {b.dtype}{list(b.shape)}"
            )


def memory_there() -> int:
    """Bytes of memory of all devices together; of the machine where the devices are its CPU."""
    limits = [(device.memory_stats() or {}).get("bytes_limit", 0) for device in jax.local_devices()]
    return sum(limits) or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def check_memory(estimator: GradientEstimator, lopt: LearnedOptimizer) -> None:
    """Refuses, by shapes alone, an estimator whose state is larger than the memory there is (ValueError)."""
    theta = jax.eval_shape(lopt.init, jax.random.key(0))
    state = jax.eval_shape(estimator.init, theta, jax.random.key(0))
    needed, there = sum(4 * math.prod(x.shape) for x in jax.tree.leaves((theta, state))), memory_there()
    if needed > there * jax.process_count():
        raise ValueError(
            f"the state of {estimator.num_particles} particles and theta would take "
            f"{needed / 2**30:,.0f} GiB of {there / 2**30:,.0f} GiB of memory: "
            "use fewer particles or a smaller task"
        )


def check_gradient(estimator: GradientEstimator, lopt: LearnedOptimizer, data: Any) -> None:
    """Refuses, by shapes alone, an estimator whose gradient is not like theta (ValueError)."""
    key = jax.random.key(0)
    theta = jax.eval_shape(lopt.init, key)
    state = jax.eval_shape(estimator.init, theta, key)
    estimate, _ = jax.eval_shape(estimator.estimate, theta, state, key, data)
    there = dict(jax.tree_util.tree_leaves_with_path(estimate.grad))
    for path, leaf in jax.tree_util.tree_leaves_with_path(theta):
        grad, where = there.pop(path, None), jax.tree_util.keystr(path)
        if grad is None or (grad.shape, grad.dtype) != (leaf.shape, leaf.dtype):
            got = "nothing" if grad is None else f"{grad.dtype}{list(grad.shape)}"
            raise ValueError(f"grad{where} must be like theta, {leaf.dtype}{list(leaf.shape)}, got {got}")
    if there:
        raise ValueError(f"grad must be like theta, which has no {jax.tree_util.keystr(next(iter(there)))}")
