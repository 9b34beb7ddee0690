"""How evolution strategies draw: options of the noise, and which particles share what randomness."""

import fnmatch
import math
from collections.abc import Callable
from typing import Annotated, Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from annotated_types import Ge, Gt

from meta_train.core import perturb

# Keys of whole cohorts and of all particles; a particle's own are `fold_in(key, index)`, index < N.
COHORT, ALL = 2**32 - 1, 2**32 - 2


class Noise(NamedTuple):
    """Options of the noise of an evolution strategy.

    Attributes:
      cohort: rollouts that belong together, an even number (both halves of a pair do) that divides 2 N.
      orthogonal: pairs of a cohort that restart together have perturbations at right angles to each
        other, each of length sigma sqrt(|theta|): for a linear loss the variance falls from
        (|theta| + 1) / N to |theta| / N - 1 times |G|^2 (one cohort of N <= |theta| pairs), to 0 at
        N = |theta|. The smoothing is by a sphere, no longer by a Gaussian: the same for
        quadratic losses, and nearly so for many meta-parameters. Drawing takes cohort / 2 times as long.
      common: rollouts that see the same inner problems and minibatches (common random numbers): those of
        a "pair", of a "cohort", or "all". Sharing more lowers no variance of the tasks or minibatches.
      final_sigma: where sigma goes, geometrically, in `decay_steps` outer steps; null for a constant sigma.
      decay_steps: outer steps after which sigma is `final_sigma`.
      scales: pattern of leaf paths ("mlp/linear_0/w", "mlp/*") -> factor of sigma for these leaves; the
        first pattern that fits counts, leaves without one have factor 1.
    """

    cohort: Annotated[int, Ge(2)] = 2
    orthogonal: bool = False
    common: Literal["pair", "cohort", "all"] = "pair"
    final_sigma: Annotated[float, Gt(0)] | None = None
    decay_steps: Annotated[int, Ge(1)] = 1000
    scales: dict[str, Annotated[float, Gt(0)]] = {}


PLAIN = Noise()


class ParticleKeys(NamedTuple):
    """Randomness of one particle in one call."""

    noise: jax.Array  # key[] of its perturbation and of its staggering: its own, or its cohort's
    member: jax.Array  # i32[], its number in the cohort
    # key[] of inner problems and minibatches: its own, its cohort's or that of all particles
    system: jax.Array


def check_noise(noise: Noise, num_particles: int) -> None:
    """Refuses options out of range by name (ValueError)."""
    if noise.cohort < 2 or noise.cohort % 2 or (2 * num_particles) % noise.cohort:
        raise ValueError(
            f"noise.cohort must be an even number that divides 2 num_particles ({2 * num_particles}): "
            f"both halves of a pair are in it, got {noise.cohort}"
        )
    if noise.orthogonal and noise.cohort < 4:
        raise ValueError(f"noise.cohort must be at least 4, two pairs, to be orthogonal, got {noise.cohort}")
    if noise.final_sigma is not None and noise.final_sigma <= 0:
        raise ValueError(f"noise.final_sigma must be > 0, got {noise.final_sigma}")
    for pattern, factor in noise.scales.items():
        if factor <= 0:
            raise ValueError(f"noise.scales must be > 0, got {factor} for {pattern}")


def particle_keys(noise: Noise) -> Callable[[jax.Array, jax.Array], ParticleKeys]:
    """`(key, index i32[]) -> ParticleKeys` of the particle called `index`. The key is consumed."""
    pairs = noise.cohort // 2

    def keys(key, index):
        own = jax.random.fold_in(key, index)
        cohort = jax.random.fold_in(jax.random.fold_in(key, COHORT), index // pairs)
        shared = {"pair": own, "cohort": cohort, "all": jax.random.fold_in(key, ALL)}
        return ParticleKeys(cohort if noise.orthogonal else own, index % pairs, shared[noise.common])

    return keys


def stagger_key(noise: Noise, key: jax.Array) -> jax.Array | None:
    """The `key_stagger` of a particle's first inner problem; None for that of the problem itself.

    Particles that share their inner problems (`common`) must not share their first length, or staggering
    would be without effect. Orthogonal pairs of a cohort do, so that they restart together.
    """
    return key if noise.orthogonal or noise.common != "pair" else None


def draw_size(noise: Noise, theta: Any) -> int:
    """How many numbers the draw of one particle takes."""
    return perturb.size(theta) * (noise.cohort // 2 if noise.orthogonal else 1)


def draw(noise: Noise, key: jax.Array, member: jax.Array, theta: Any) -> tuple[Any, Any]:
    """One perturbation in units of sigma, and its score: like theta. The key is consumed.

    The score is eps / var in units of 1 / sigma: the perturbation itself but for `scales`.

    Raises:
      ValueError: a cohort of more orthogonal pairs than theta has numbers; a pattern that fits no leaf.
    """
    if noise.orthogonal:
        unit = _orthogonal(key, member, noise.cohort // 2, theta)
    else:
        unit = perturb.gaussian_like(key, theta)
    factors = leaf_factors(noise.scales, theta)
    if factors is None:
        return unit, unit
    return jax.tree.map(jnp.multiply, unit, factors), jax.tree.map(jnp.divide, unit, factors)


def _orthogonal(key, member, pairs, theta):
    """Row `member` of `pairs` random rows at right angles, of length sqrt(|theta|), like theta."""
    size = perturb.size(theta)
    if pairs > size:
        raise ValueError(
            f"noise.cohort must be at most 2 |theta| = {2 * size} to be orthogonal, got {2 * pairs}"
        )
    q, r = jnp.linalg.qr(jax.random.normal(key, (size * pairs,)).reshape(size, pairs))
    # QR alone prefers some directions; the signs of r make all of them alike (Mezzadri 2007).
    row = jnp.sign(r[member, member]) * q[:, member] * math.sqrt(size)
    return perturb.unflatten(row, theta)


def leaf_factors(scales: dict[str, float], theta: Any) -> Any:
    """Factor of sigma for every leaf, like theta; None where there are no scales."""
    if not scales:
        return None
    paths, treedef = jax.tree_util.tree_flatten_with_path(theta)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]
    for pattern in scales:
        if not fnmatch.filter(names, pattern):
            raise ValueError(f"noise.scales must name leaves of theta ({', '.join(names)}), got {pattern}")
    found = [next((scales[p] for p in scales if fnmatch.fnmatchcase(name, p)), 1.0) for name in names]
    return treedef.unflatten(
        [jnp.asarray(c, jnp.result_type(leaf)) for c, (_, leaf) in zip(found, paths, strict=True)]
    )


def sigma_now(noise: Noise, sigma: jax.Array, initial: float, calls: jax.Array | None) -> jax.Array:
    """f32[]: sigma after so many calls, with the schedule's share of the way to `final_sigma`."""
    if noise.final_sigma is None or calls is None:
        return sigma
    progress = jnp.minimum(calls / noise.decay_steps, 1.0)
    return sigma * (noise.final_sigma / initial) ** progress


def first_calls(noise: Noise) -> jax.Array | None:
    """The counter of a particle's calls; None where nothing depends on it."""
    return None if noise.final_sigma is None else jnp.zeros([], jnp.int32)


def set_sigma(state: Any, sigma: jax.Array | float) -> Any:
    """The state of an estimator whose particles draw with another sigma from now on; nothing recompiles.

    Args:
      state: of an estimator that keeps its sigma in its state, or of an average over families of them.
      sigma: f32[], std of the noise in units of theta; of a schedule, where it begins.

    Raises:
      ValueError: an estimator whose sigma is not part of its state.
    """
    found = []

    def leaf(path, x):
        if getattr(path[-1] if path else None, "name", None) != "sigma":
            return x
        found.append(path)
        return jnp.broadcast_to(jnp.asarray(sigma, x.dtype), x.shape)

    state = jax.tree_util.tree_map_with_path(leaf, state)
    if not found:
        raise ValueError(
            "estimator must have its sigma in its state (gpes, pes, nres, full_es, truncated_es) for it "
            f"to change, got one with {type(getattr(state, 'state', state)).__name__}"
        )
    return state
