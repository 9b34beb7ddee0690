"""Many meta-parameters of an MLP's training: rates, momenta and numbers of hidden units, tensor by tensor."""

from typing import Annotated, Any, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from meta_train.core.system import UnrolledSystem
from reproductions.systems.classifier import Objective, classifier, no_gradient, worst_loss
from reproductions.systems.outer_problem import OuterProblem


class LayerHyperparametersState(NamedTuple):
    """params: the MLP's; velocity: like params."""

    params: Any
    velocity: Any


def layer_hyperparameters(
    *,
    dataset: str = "digits",
    hidden: tuple[Annotated[int, Ge(1)], ...] = (100, 100, 100, 100, 100),
    batch_size: Annotated[int, Ge(1)] = 100,
    unroll_length: Annotated[int, Ge(1)] = 1000,
    objective: Objective = "valid",
    units: bool = True,
    rates: tuple[Annotated[float, Gt(0)], Annotated[float, Gt(0)]] = (1e-4, 1e-2),
    initial_scale: Annotated[float, Gt(0)] = 1.0,
) -> OuterProblem:
    """29 hyperparameters of an MLP's training by SGD with momentum (Vicol et al. 2021, section 5.3).

    theta, random at first: "log_rate" and "logit_momentum", f32[tensors] in the order of Haiku's tree
    (6 layers have 12: bias, then weights), and "logit_keep", f32[hidden layers]: of each layer's
    units, the first `floor(sigmoid(logit_keep) width)`, at least one, are in use: a number without gradient.

    Args:
      dataset: name as in `tasks.data.datasets.load`: digits, tfds:fashion_mnist, ...
      hidden: widths of the hidden layers.
      batch_size: rows of a minibatch, drawn with replacement.
      unroll_length: T.
      objective: "train", cross-entropy of the minibatch that a step trains on, before the step; "valid", of
        a validation minibatch after it; "accuracy", 1 - the accuracy on one, which has no gradient.
      units: whether theta has "logit_keep"; without, all units are in use and "train" and "valid"
        are differentiable.
      rates: theta begins with learning rates log-uniform between these, momenta uniform between 0.01 and 0.9
        and fractions of the units between 0.2 and 0.8.
      initial_scale: factor on Haiku's initial matrices (variance 1 / fan-in); 2 keeps the size of
        activations through ReLUs of which half are in use.

    Returns:
      A problem whose data is {"train": arrays, "valid": arrays}.

    Raises:
      ValueError: a data set that cannot be loaded, or a regression; rates out of order.

    Source: Vicol, Metz & Sohl-Dickstein, ICML 2021, and the paper's public code.
    Differs from it in: digits by default (Fashion-MNIST there); every particle draws minibatches and
      initial parameters of its own.
    """
    if rates[0] > rates[1]:
        raise ValueError(f"rates must be (low, high) with low <= high, got {rates}")
    model = classifier(dataset, hidden, batch_size, objective, initial_scale=initial_scale)
    treedef = jax.tree.structure(jax.eval_shape(model.init, jax.random.key(0)))
    tensors = treedef.num_leaves
    widths = jnp.asarray(hidden, jnp.float32)

    def init_theta(key):
        key_rate, key_momentum, key_keep = jax.random.split(key, 3)
        low, high = jnp.log(jnp.asarray(rates))
        theta = {
            "log_rate": jax.random.uniform(key_rate, (tensors,), minval=low, maxval=high),
            "logit_momentum": _logit(jax.random.uniform(key_momentum, (tensors,), minval=0.01, maxval=0.9)),
        }
        if units:
            theta["logit_keep"] = _logit(jax.random.uniform(key_keep, (len(hidden),), minval=0.2, maxval=0.8))
        return theta

    def per_tensor(numbers):
        return treedef.unflatten(list(numbers))

    def init(theta, key):
        params = model.init(key)
        zeros = jax.tree.map(jnp.zeros_like, params)
        return LayerHyperparametersState(params, zeros), jnp.int32(unroll_length)

    def step(theta, state, key, data):
        key_train, key_valid = jax.random.split(key)
        kept = jnp.maximum(jnp.floor(jax.nn.sigmoid(theta["logit_keep"]) * widths), 1) if units else None
        loss, grads = jax.value_and_grad(model.loss)(state.params, kept, key_train, data)
        rates, momenta = (
            per_tensor(jnp.exp(theta["log_rate"])),
            per_tensor(jax.nn.sigmoid(theta["logit_momentum"])),
        )
        velocity = jax.tree.map(lambda m, v, g: m * v + g, momenta, state.velocity, grads)
        params = jax.tree.map(lambda r, p, v: p - r * v, rates, state.params, velocity)
        if objective != "train":
            loss = model.score(params, kept, key_valid, data)
        return LayerHyperparametersState(params, velocity), loss

    discrete = "the number of hidden units" if units else ""
    system = UnrolledSystem(
        init, step, unroll_length, unroll_length, worst_loss(objective), no_gradient(objective) or discrete
    )
    return OuterProblem(system, init_theta, model.data)


def _logit(p):
    return jnp.log(p) - jnp.log1p(-p)
