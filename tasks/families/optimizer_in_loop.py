"""Training an optimizer as an inner problem: the gradient runs through an unrolled loop."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families import networks
from tasks.families.networks import Positive, PositiveInt, Range, Widths, check_range, normal, sample_range


def optimizer_in_loop(
    *,
    hidden: Widths = (8,),
    dim: PositiveInt = 5,
    steps: PositiveInt = 10,
    condition_number: Range = 10.0,
    step_size: Positive = 0.1,
    batch_size: PositiveInt = 4,
) -> TaskFamily:
    """A per-coordinate MLP optimizer learns to descend random quadratics (Andrychowicz et al. 2016).

    `loss = mean over problems and steps of log(f_t / f_0 + 1e-3)`; the network sees gradient and
    momentum of one coordinate, and moves it by `step_size` times its output.

    Args:
      hidden: widths of the optimizer's hidden layers (tanh).
      dim: of the quadratics.
      steps: that gradients flow through.
      condition_number: of the quadratics of a task; a number or a log-uniform range.
      step_size: of the optimizer.
      batch_size: fresh quadratics of a minibatch.

    Returns:
      A family without data; cfg {"eigenvalues": f32[dim]}.

    Source: Andrychowicz et al. 2016.
    """
    check_range("condition_number", condition_number)
    init, apply = networks.pure(lambda x: networks.mlp(x, hidden, 1, "tanh")[..., 0], 1, 2)

    def sample(key):
        exponents = jnp.linspace(0.0, 1.0, dim, dtype=jnp.float32)
        return {"eigenvalues": sample_range(key, condition_number) ** -exponents}

    def task(cfg):
        def value(x):
            return 0.5 * jnp.sum(cfg["eigenvalues"] * x**2, axis=-1)

        def loss(params, key, data):
            start = normal(key, (batch_size, dim))

            def step(carry, _):
                x, momentum = carry
                gradient = cfg["eigenvalues"] * x
                momentum = 0.9 * momentum + 0.1 * gradient
                x = x + step_size * apply(params, jnp.stack([gradient, momentum], axis=-1))
                return (x, momentum), value(x)

            _, values = jax.lax.scan(step, (start, jnp.zeros_like(start)), length=steps)
            return jnp.mean(jnp.log(values / (value(start) + 1e-6) + 1e-3))

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
