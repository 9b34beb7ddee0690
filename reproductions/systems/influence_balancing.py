"""A recurrence whose short-term gradient points away from the long-term one."""

from typing import Annotated

import jax.numpy as jnp
import numpy as np
from annotated_types import Ge

from meta_train.testing.toys import Toy, recurrence


def influence_balancing(
    *,
    unroll_length: Annotated[int, Ge(1)] | None = None,
    loss_period: Annotated[int, Ge(1)] = 1,
) -> Toy:
    """Short-term influence of theta against its long-term influence (Tallec & Ollivier 2017).

    23 states, `s <- A s + theta p`, A = 1/2 on the diagonal and above it, p = +1 for the first 10
    states and -1 for the others, s_0 = 1, loss (s[0] - 1)^2 / 2, theta = 1/2. The best theta is -1/6;
    gradients truncated to at most 40 steps point away from it.

    Args:
      unroll_length: T; None for the endless problem, whose `gradient` is that of the stationary state.
      loss_period: steps from one loss to the next (times `loss_period`, so that the mean does not change).
    """
    a = 0.5 * (np.eye(23) + np.eye(23, k=1))
    p = np.where(np.arange(23) < 10, 1.0, -1.0)
    a32, p32, theta = jnp.asarray(a, jnp.float32), jnp.asarray(p, jnp.float32), 0.5
    system = recurrence(
        lambda theta, s, key: a32 @ s + theta * p32,
        lambda s: 0.5 * jnp.square(s[0] - 1),
        np.ones(23),
        unroll_length,
        loss_period=loss_period,
    )

    def truncated(k):
        steps, s, influence, total = unroll_length or 1000, np.ones(23), np.zeros(23), []
        if unroll_length is None:
            s = np.linalg.solve(np.eye(23) - a, theta * p)
        for t in range(steps):
            influence = a @ (np.zeros(23) if t % k == 0 else influence) + p
            s = a @ s + theta * p
            total.append((s[0] - 1) * influence[0] * ((t + 1) % loss_period == 0) * loss_period)
        return float(np.mean(total[-k:] if unroll_length is None else total))

    def gradient(sigma, period):
        if unroll_length is not None:
            return truncated(unroll_length)
        slope = np.linalg.solve(np.eye(23) - a, p)[0]
        return float((theta * slope - 1) * slope)

    return Toy(system, jnp.float32(theta), gradient, truncated)
