"""Ordinary training of one task with an optax optimizer, whose numbers are searched."""

from typing import Annotated, Any

import jax
import jax.numpy as jnp
import optax
from annotated_types import Ge

from meta_train.config.checks import default_registries
from meta_train.config.registry import Spec, option_parameters
from meta_train.population.base import Member, Trainer
from meta_train.population.traced_optimizers import numbers_of, others_of, searched_optimizer
from meta_train.run.experiment import build_family
from tasks import check_family, expand

FLOOR = 1e-8  # under the logarithm


def supervised(
    searched: tuple[str, ...] = (),
    *,
    task: Spec,
    optimizer: Spec = {"name": "adam"},  # noqa: B006 (read only)
    test_task: Spec | None = None,
    num_valid_batches: Annotated[int, Ge(1)] = 8,
    task_seed: Annotated[int, Ge(0)] = 0,
) -> Trainer:
    """Trains one task of a family; fitness is -log of its validation loss, on the same minibatches always.

    Searched can be every option of the optimizer that is a number: `learning_rate`, `weight_decay`, `b1`,
    `momentum`, `clip_norm`, ... Members differ in their initial weights and minibatches.

    Args:
      searched: names of the hyperparameters that the population searches.
      task: `{name: FAMILY, and options}`, or a named task; `augment` as in a run's config.
      optimizer: `{name: OPTIMIZER, and options}` as in optax; what is searched need not be given.
      test_task: a family with the same parameters on data that is neither trained nor selected on; its loss
        ("train" split) is reported at the end. Null for none.
      num_valid_batches: minibatches of the "valid" split that the fitness averages.
      task_seed: which task of the family.

    Raises:
      ConfigError, ValueError: what a factory refuses.
    """
    task = expand(task)
    family = build_family(task, "task")
    check_family(family)
    data: dict[str, Any] = {"train": family.data["train"], "valid": family.data["valid"]}
    if test_task is not None:
        other = build_family(expand(test_task), "test_task")
        check_family(other)
        data["test"] = other.data["train"]
    make = searched_optimizer(optimizer, searched, 1)
    # Keys are made where they are used: an array from outside would belong to one of several processes.
    keys_of = lambda: jax.random.split(jax.random.key(task_seed))  # noqa: E731
    task_of = lambda: family.task(family.sample(keys_of()[0]))  # noqa: E731

    def init(key, hypers):
        params = task_of().init(key)
        return Member(params, make(hypers).init(params))

    def step(member, hypers, key, data):
        loss, grads = jax.value_and_grad(task_of().loss)(member.weights, key, data["train"])
        updates, opt_state = make(hypers).update(grads, member.opt_state, member.weights, value=loss)
        return Member(optax.apply_updates(member.weights, updates), opt_state)

    def mean_loss(member, data):
        keys = jax.random.split(keys_of()[1], num_valid_batches)
        return jax.vmap(lambda key: task_of().loss(member.weights, key, data))(keys).mean()

    def test(member, data):
        found = {"valid_loss": mean_loss(member, data["valid"])}
        return found | ({"test_loss": mean_loss(member, data["test"])} if "test" in data else {})

    return Trainer(
        init,
        step,
        lambda member, data: -jnp.log(mean_loss(member, data["valid"]) + FLOOR),
        data,
        hypers=numbers_of(optimizer["name"]),
        static=(
            *others_of(optimizer["name"]),
            *(option.name for option in option_parameters(default_registries().tasks[task["name"]])),
            *(option.name for option in option_parameters(supervised)),
        ),
        test=test,
    )
