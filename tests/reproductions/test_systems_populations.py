"""The two problems of the reproductions of populations: what pays at once, and what it costs."""

import functools

import jax
import jax.numpy as jnp

from reproductions.systems.lasting_damage import lasting_damage
from reproductions.systems.noisy_valley import noisy_valley


@functools.partial(jax.jit, static_argnums=(0, 3))
def trained(train_step, member, hypers, num_steps):
    def step(member, key):
        return train_step(member, hypers, key, ()), None

    return jax.lax.scan(step, member, jax.random.split(jax.random.key(0), num_steps))[0]


def test_the_shortcut_pays_at_once_and_costs_for_good():
    trainer = lasting_damage()
    skill = {}
    for shortcut in (0.001, 1.0):
        member = trainer.init(jax.random.key(0), {})
        for steps in (200, 20_000):
            rates = {"shortcut": jnp.float32(shortcut), "learning_rate": jnp.float32(0.1)}
            member = trained(trainer.step, member, rates, steps)
            skill[shortcut, steps] = float(trainer.score(member, ()))
        # The formula: m after n steps is 1 - (1 - harm shortcut)^n, whatever happens later.
        assert abs(float(member.weights[1]) - (1 - (1 - 0.004 * shortcut) ** 20_200)) < 1e-3
    assert skill[1.0, 200] > 2 * skill[0.001, 200]
    assert skill[1.0, 20_000] < skill[0.001, 20_000] - 0.2


def test_in_the_valley_a_low_rate_pays_at_once_and_moves_slowly_along_the_floor():
    trainer = noisy_valley()

    def after(member, rate, steps):
        hypers = {"learning_rate": jnp.float32(rate), "damping": jnp.float32(1.0)}
        return trained(trainer.step, member, hypers, steps)

    settled = after(trainer.init(jax.random.key(0), {}), 0.5, 500)
    walls = {
        rate: float(jnp.square(y - jnp.sin(x)).sum())
        for rate in (0.5, 0.02)
        for x, y in [after(settled, rate, 300).weights]
    }
    # A sum over 32 copies: it varies by sqrt(2 / 32) = 25 %, and falls about twentyfold (the key is fixed).
    assert walls[0.02] < 0.2 * walls[0.5]
    far = {rate: jnp.abs(after(settled, rate, 4000).weights[0]).mean() for rate in (0.5, 0.01)}
    assert far[0.5] < 0.5 * far[0.01]
