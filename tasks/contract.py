"""`check_task` certifies a task family, your own or one of this package, by a few short trainings of it."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from tasks.base import TaskFamily
from tasks.check import check_family

NUM_CFGS = 2
NUM_KEYS = 4
MOST_BAKED_IN = 1000  # numbers


class Check(NamedTuple):
    """What one check found: whether it passed, and the figures in words."""

    passed: bool
    detail: str


def check_task(family: TaskFamily) -> dict[str, Check]:
    """Certifies a task family: name -> `Check`.

    "shapes": what `check_family` looks at. "finite": the losses of two tasks before, during and after 40
    steps of gradient descent. "same key": they are the same numbers again. "another key": how many different
    losses four keys give, one where there are no minibatches; both are right. "descends": the mean loss after
    the training is lower than before it. "data": it is an argument, and not part of the program.
    """
    return dict(checks(family))


def checks(family: TaskFamily) -> Iterator[tuple[str, Check]]:
    """The checks of `check_task`, one after the other; the first that raises is the last."""
    try:
        check_family(family, "the family")
    except ValueError as error:
        yield "shapes", Check(False, str(error))
        return
    yield (
        "shapes",
        Check(True, "sample, task, init and loss give what they must, for every split of the data"),
    )
    try:
        run = probe(family)
        first = run(family.data["train"], jax.random.key(0))
        again = run(family.data["train"], jax.random.key(0))
    except Exception as error:  # whatever a person's own loss raises where it is differentiated or vmapped
        lines = str(error).strip().splitlines() or [""]
        yield "finite", Check(False, f"the training fails: {type(error).__name__}: {lines[0]}")
        return
    yield from _of_trainings(first, again)
    baked = baked_in(family)
    yield (
        "data",
        Check(baked <= MOST_BAKED_IN, f"the loss closes over {baked} numbers, at most {MOST_BAKED_IN}"),
    )


def _of_trainings(first: dict[str, Any], again: dict[str, Any]) -> Iterator[tuple[str, Check]]:
    bad = sum(int((~np.isfinite(x)).sum()) for x in jax.tree.leaves(first))
    yield "finite", Check(bad == 0, f"{bad} losses are not finite")
    same = all(np.array_equal(first[name], again[name], equal_nan=True) for name in first)
    yield "same key", Check(same, "the same losses again" if same else "other losses with the same key")
    distinct = sorted({len(np.unique(row)) for row in np.asarray(first["after"])})
    yield (
        "another key",
        Check(True, f"{NUM_KEYS} keys give {' or '.join(map(str, distinct))} different losses"),
    )
    before, after = first["before"].mean(1), first["after"].mean(1)
    words = ", ".join(f"from {b:.3g} to {a:.3g}" for b, a in zip(before, after, strict=True))
    yield "descends", Check(bool((after < before).all()), f"40 steps of gradient descent: {words}")


def probe(
    family: TaskFamily, learning_rate: float = 0.02, num_steps: int = 40
) -> Callable[[Any, jax.Array], dict[str, jax.Array]]:
    """A jitted `(data, key) -> dict`: losses of two tasks before, during and after training, f32[2, losses].

    The loss appears once in the program, in one scan, because compiling it is all that costs:
    evaluation is a step with learning rate 0.
    """

    def one_task(data, cfg, key):
        task = family.task(cfg)
        key_init, key_loss, key_train = jax.random.split(key, 3)
        params = task.init(key_init)
        evaluation, training = jax.random.split(key_loss, NUM_KEYS), jax.random.split(key_train, num_steps)
        keys = jnp.concatenate([evaluation, training, evaluation])
        rates = jnp.zeros(len(keys)).at[NUM_KEYS:-NUM_KEYS].set(learning_rate)

        def step(carry, key_and_rate):  # Adam without its first moment
            params, second, t = carry
            key, rate = key_and_rate
            loss, grads = jax.value_and_grad(task.loss)(params, key, data)
            second = jax.tree.map(lambda v, g: 0.9 * v + 0.1 * g.astype(jnp.float32) ** 2, second, grads)
            correction = 1 - 0.9 ** (t + 1)
            params = jax.tree.map(
                lambda p, g, v: (p - rate * g / (jnp.sqrt(v / correction) + 1e-8)).astype(p.dtype),
                *(params, grads, second),
            )
            return (params, second, t + 1), loss

        second = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
        _, losses = jax.lax.scan(step, (params, second, jnp.float32(0)), (keys, rates))
        return {"before": losses[:NUM_KEYS], "during": losses, "after": losses[-NUM_KEYS:]}

    # Unoptimised code: it halves the compile time, and there is little to run.
    @partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def run(data, key):
        key_cfg, key_tasks = jax.random.split(key)
        cfgs = jax.vmap(family.sample)(jax.random.split(key_cfg, NUM_CFGS))
        return jax.vmap(one_task, (None, 0, 0))(data, cfgs, jax.random.split(key_tasks, NUM_CFGS))

    return run


def baked_in(family: TaskFamily) -> int:
    """Elements of the arrays that the loss closes over instead of receiving as arguments."""
    key = jax.random.key(0)
    cfg = jax.eval_shape(family.sample, key)
    params = jax.eval_shape(lambda c, k: family.task(c).init(k), cfg, key)
    loss = jax.make_jaxpr(lambda c, p, k, d: family.task(c).loss(p, k, d))(
        cfg, params, key, family.data["train"]
    )
    return sum(jnp.size(const) for const in loss.consts)
