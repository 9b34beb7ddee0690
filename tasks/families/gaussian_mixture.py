"""Maximum-likelihood fits of Gaussian mixtures."""

import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families.networks import Positive, PositiveInt, normal


def gaussian_mixture(
    *,
    components: PositiveInt = 4,
    true_components: PositiveInt = 4,
    dim: PositiveInt = 2,
    spread: Positive = 3.0,
    batch_size: PositiveInt = 64,
) -> TaskFamily:
    """A mixture with diagonal covariances, `loss = mean -log sum_k w_k N(x; m_k, s_k^2)`, nats per point.

    Args:
      components: of the fitted mixture.
      true_components: of the mixture that the points come from, with unit covariances and equal weights.
      dim: of the points.
      spread: standard deviation of the true means.
      batch_size: fresh points of a minibatch.

    Returns:
      A family without data; cfg {"means": f32[true_components, dim]}; params {"means", "log_std",
      "logits"}, the means starting as N(0, 1).

    Source: Bishop, Pattern Recognition and Machine Learning, 2006, 9.2.
    """

    def sample(key):
        return {"means": spread * normal(key, (true_components, dim))}

    def task(cfg):
        def init(key):
            return {
                "means": normal(key, (components, dim)),
                "log_std": jnp.zeros((components, dim), jnp.float32),
                "logits": jnp.zeros(components, jnp.float32),
            }

        def loss(params, key, data):
            key_which, key_x = jax.random.split(key)
            which = jax.random.randint(key_which, (batch_size,), 0, true_components)
            x = cfg["means"][which] + normal(key_x, (batch_size, dim))
            z = (x[:, None] - params["means"]) * jnp.exp(-params["log_std"])
            log_density = -0.5 * jnp.sum(z**2 + 2 * params["log_std"] + jnp.log(2 * jnp.pi), axis=-1)
            return -jnp.mean(jax.nn.logsumexp(jax.nn.log_softmax(params["logits"]) + log_density, axis=-1))

        return Task(init, loss)

    return TaskFamily(sample, task, NO_DATA)
