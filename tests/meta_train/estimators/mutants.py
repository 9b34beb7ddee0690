"""Wrong variants of right estimators: what `check_estimator` must catch.

`MUTANTS` maps a name to a factory and to what it claims to smooth by. Most wrap a right estimator and spoil
one thing of it; those of the rules inside restate PES for one particle with one thing wrong (`wrong_pes`).
"""

import functools

import jax
import jax.numpy as jnp

from meta_train.core import perturb
from meta_train.core.estimator import OneParticle, from_particle
from meta_train.core.system import finished, restart_if, start, unroll
from meta_train.estimators import ESTIMATORS


def wrong_pes(
    system, *, wrong="", num_particles: int = 1, truncation_length=2, sigma: float = 0.1, stagger: bool = True
):
    """PES for one particle, written out, with one thing `wrong`; right where that is empty."""
    steps = truncation_length + {"a window of one step more": 1, "a window of one step less": -1}.get(
        wrong, 0
    )

    def init_one(theta, key):
        rollout = start(system, theta, key, stagger=truncation_length if stagger else None)
        zeros = perturb.zeros_like(theta)
        return perturb.stack(rollout, rollout), zeros, jnp.bool_(False), jax.random.fold_in(key, 1)

    def estimate_one(theta, state, key, data):
        pair, xi, late, own = state
        if wrong == "the same keys in every window":
            key = own
        key_restart, key_eps, key_unroll = jax.random.split(key, 3)
        if wrong == "the same noise in every window":
            key_eps = jax.random.fold_in(own, 2)
        if wrong == "every inner problem the same":
            key_restart = own
        over = finished(pair)
        if wrong == "no restart after divergence":
            over = pair.t >= pair.length
        if wrong == "restarts one window late":
            over = pair.t > pair.length
        restarted = over.any()
        reset = {"xi is never reset": jnp.bool_(False), "xi is reset one window late": late}.get(
            wrong, restarted
        )
        fresh = restarted | (pair.t[0] == 0) if wrong != "theta has no part in the first state" else restarted
        xi = perturb.where(reset, perturb.zeros_like(theta), xi)
        noise = perturb.gaussian_like(key_eps, theta)
        if wrong == "only the first leaf is perturbed":
            first, *rest = jax.tree.leaves(noise)
            noise = jax.tree.unflatten(jax.tree.structure(noise), [first, *map(jnp.zeros_like, rest)])
        eps = perturb.scale(sigma, noise)
        before = xi
        xi = perturb.add_scaled(xi, 1 / sigma, noise)
        thetas = perturb.antithetic(theta, eps)
        if wrong == "perturbed in bfloat16":
            thetas = jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), thetas)
        if wrong == "the minus half is not perturbed":
            thetas = jax.tree.map(lambda x, y: x.at[1].set(y), thetas, theta)

        def window(theta_of_half, rollout, key_unroll):
            of_start = theta if wrong == "theta has no part in the first state" else theta_of_half
            begun = restart_if(fresh, system, of_start, rollout, key_restart)
            begun = begun._replace(length=jnp.where(restarted, begun.length, rollout.length))
            return unroll(system, theta_of_half, begun, key_unroll, data, steps)

        keys = jnp.stack([key_unroll, key_unroll])
        if wrong == "halves with keys of their own":
            keys = jax.random.split(key_unroll)
        pair, losses = jax.vmap(window)(thetas, pair, keys)
        if wrong == "windows that overlap":
            pair = pair._replace(t=pair.t - 1)
        delta = (losses[0] - losses[1]).mean()
        if wrong == "a constant added to the difference":
            delta += 0.01
        if wrong == "the last loss counts alone":
            delta = (losses[0] - losses[1])[-1]
        direction = {
            "without the newest noise": before,
            "the newest noise alone": perturb.scale(1 / sigma, noise),
        }
        one = OneParticle(
            direction=direction.get(wrong, xi),
            weight=delta / 2,
            loss=losses.sum(1).mean() if wrong == "reports the sum of losses" else losses.mean(),
            delta=delta,
            restarted=restarted,
            diverged=pair.diverged.any() & (wrong != "reports no divergence"),
            sigma=sigma,
        )
        return one, (pair, xi, restarted, own)

    keys = jax.random.fold_in
    if wrong == "particles share all keys":
        keys = lambda key, index: key  # noqa: E731
    return from_particle(init_one, estimate_one, num_particles, 2 * truncation_length, keys=keys)


def spoilt(name, change, factor=1.0):
    """A factory of `name` with gradient `change(grad)`, and `factor` times the gradients of its particles."""

    @functools.wraps(ESTIMATORS[name])
    def make(*args, **options):
        right = ESTIMATORS[name](*args, **options)

        def estimate(theta, state, key, data):
            found, state = right.estimate(theta, state, key, data)
            squares = {"grad_sq": factor**2 * found.particles["grad_sq"]}
            return found._replace(grad=change(found.grad), particles=found.particles | squares), state

        return right._replace(estimate=estimate)

    return make


def scaled(name, factor):
    """A factory of the estimator called `name` whose gradients, one and all, are `factor` times too long."""
    return spoilt(name, lambda grad: perturb.scale(factor, grad), factor)


WRONG_RULES = (
    "a constant added to the difference",
    "a window of one step less",
    "a window of one step more",
    "every inner problem the same",
    "halves with keys of their own",
    "no restart after divergence",
    "only the first leaf is perturbed",
    "particles share all keys",
    "perturbed in bfloat16",
    "reports no divergence",
    "reports the sum of losses",
    "restarts one window late",
    "the last loss counts alone",
    "the minus half is not perturbed",
    "the newest noise alone",
    "the same keys in every window",
    "the same noise in every window",
    "theta has no part in the first state",
    "windows that overlap",
    "without the newest noise",
    "xi is never reset",
    "xi is reset one window late",
)
MUTANTS = {f"PES: {wrong}": (functools.partial(wrong_pes, wrong=wrong), "window") for wrong in WRONG_RULES}
MUTANTS |= {
    "BPTT: 2 % too long": (scaled("bptt", 1.02), "none"),
    "NRES: 2 % too short": (scaled("nres", 0.98), "episode"),
    "NRES: the sign": (scaled("nres", -1.0), "episode"),
    "NRES: half in float16": (
        spoilt("nres", lambda grad: jax.tree.map(lambda x: x.astype(jnp.float16), grad)),
        "episode",
    ),
    "NRES that claims to smooth by new noise in every window": (ESTIMATORS["nres"], "window"),
    "PES: 2 % too long": (scaled("pes", 1.02), "window"),
    "PES that claims to smooth by one noise": (ESTIMATORS["pes"], "episode"),
    "TBPTT that claims to be unbiased": (ESTIMATORS["tbptt"], "none"),
    "truncated ES that claims to be unbiased": (ESTIMATORS["truncated_es"], "episode"),
}
