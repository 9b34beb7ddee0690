from functools import partial

import jax
import jax.numpy as jnp
import pytest

NUM_CFGS = 2
NUM_KEYS = 4


def make_probe(family, learning_rate=0.02, num_steps=40):
    """A jitted `(data, key) -> dict`: losses of a few tasks before, during and after training.

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


def count_baked_in(family) -> int:
    """Elements of the arrays that the loss closes over instead of receiving as arguments."""
    key = jax.random.key(0)
    cfg = jax.eval_shape(family.sample, key)
    params = jax.eval_shape(lambda c, k: family.task(c).init(k), cfg, key)
    loss = jax.make_jaxpr(lambda c, p, k, d: family.task(c).loss(p, k, d))(
        cfg, params, key, family.data["train"]
    )
    return sum(jnp.size(const) for const in loss.consts)


@pytest.fixture(scope="session")
def probe():
    return make_probe


@pytest.fixture(scope="session")
def baked_in():
    return count_baked_in
