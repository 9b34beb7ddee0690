"""Bayesian regression by variational inference."""

import haiku as hk
import jax
import jax.numpy as jnp

from tasks.base import TaskFamily
from tasks.data import datasets as datasets_lib
from tasks.families import networks, supervised
from tasks.families.networks import Positive, PositiveInt


def variational_regression(
    *,
    datasets: tuple[str, ...] = ("breast_cancer",),
    prior_std: Positive = 1.0,
    batch_size: PositiveInt = 32,
) -> TaskFamily:
    """Mean-field Gaussian weights of a linear model (Kucukelbir et al. 2017), negative ELBO per example.

    One reparameterised draw of the weights per loss. Likelihood: categorical for classes, N(0, 1)
    for targets. The KL to the prior is divided by the rows of the training split.

    Args:
      datasets: names as in `tasks.data.datasets.load`, of one number of columns and of classes.
      prior_std: standard deviation of the weights' Gaussian prior.
      batch_size: rows of a minibatch.

    Returns:
      A family with cfg {"dataset": i32[], "scale": f32[]}; params are means and log standard deviations.

    Raises:
      ValueError: data sets with different numbers of classes.

    Source: Kucukelbir et al. 2017.
    """
    stack = datasets_lib.stack(datasets)
    if not stack.equal_classes:
        raise ValueError(f"datasets: {list(datasets)} have different numbers of classes")
    outputs = stack.num_classes or 1
    rows = float(stack.data["train"]["rows"].max())

    def loss(x: jax.Array, y: jax.Array) -> jax.Array:
        x = x.reshape(len(x), -1)
        shape = (x.shape[-1] + 1, outputs)
        mean = hk.get_parameter("mean", shape, init=jnp.zeros)
        log_std = hk.get_parameter("log_std", shape, init=hk.initializers.Constant(-2.0))
        w = mean + jnp.exp(log_std) * networks.normal(hk.next_rng_key(), shape)
        output = x @ w[:-1] + w[-1]
        ratio = jnp.exp(log_std) / prior_std
        kl = jnp.sum(0.5 * (ratio**2 + (mean / prior_std) ** 2 - 1) - jnp.log(ratio))
        if stack.num_classes:
            return networks.cross_entropy(output, y) + kl / rows
        return 0.5 * jnp.mean((output[:, 0] - y) ** 2 + jnp.log(2 * jnp.pi)) + kl / rows

    return supervised.modelled(loss, stack, batch_size)
