"""Why PES fails on the Swimmer with a small sigma: the landscape of the return at the scale of sigma.

PES with two sigmas; then the return is measured around policies that it ended at: how far two halves of a
pair differ, how close to a linear function that is, the curvature along all directions, and whether the
linearised closed loop oscillates, which is what swimming needs.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reproductions import common, control
from reproductions.systems.swimmer import SwimmerState, control_step, swimmer

T, PES = 1000, control.Method("pes", {"num_particles": 10, "truncation_length": 100}, ())
SIGMAS, STEP = (0.02, 0.2), 0.1
SCALES, CURVED = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4), (0.02, 0.2)
TOTAL, TOTAL_FAST, PAIRS, EPISODES = 160_000, 40_000, 24, 1
GROUPS = {"start": lambda r: r < -np.inf, "stuck": lambda r: r < 100, "solved": lambda r: r > 325}
SEEN = {"heading": [0], "joints": [1, 2], "velocity": [3, 4], "turning": [5, 6, 7]}


def multipliers(theta: jax.Array) -> np.ndarray:
    """c64[..., 8]: eigenvalues of one control step around rest, of the closed loop; the largest first.

    The swimmer at rest is an equilibrium of every linear policy. A number of modulus > 1 grows; one that
    is not real oscillates. theta: f32[..., 2, 8].
    """

    def step(theta, x):
        state = SwimmerState(jnp.concatenate([jnp.zeros(2), x[:3]]), x[3:])
        after = control_step(state, theta @ x)
        return jnp.concatenate([after.q[2:], after.qdot])

    flat = jnp.asarray(theta).reshape(-1, 2, 8)
    jacobians = jax.jit(jax.vmap(jax.jacfwd(step, 1), (0, None)))(flat, jnp.zeros(8))
    found = np.linalg.eigvals(np.asarray(jacobians))
    found = np.take_along_axis(found, np.argsort(-np.abs(found), axis=-1), -1)
    return found.reshape(*jnp.shape(theta)[:-2], 8)


def oscillates(numbers: np.ndarray) -> np.ndarray:
    """bool[...]: whether a pair of complex multipliers grows, by 1 % a step at least."""
    return np.any((np.abs(np.imag(numbers)) > 1e-3) & (np.abs(numbers) > 1.01), axis=-1)


def pair_statistics(fn, theta: jax.Array, scale: Any, key: jax.Array, pairs: int = PAIRS) -> tuple:
    """Root mean square of (fn(theta + e) - fn(theta - e)) / 2, and how linear it is: 1 for a linear fn.

    The second is (d + 1) |g|^2 / tr Cov of the gradient from one pair, debiased. e has the std `scale`;
    `fn` is `(theta, key) -> f32[]`, the same key for both halves. The key is consumed.
    """

    def one(key):
        key_e, key_fn = jax.random.split(key)
        e = jax.random.normal(key_e, theta.shape)
        half = (fn(theta + scale * e, key_fn) - fn(theta - scale * e, key_fn)) / 2
        return half, (half / scale * e).ravel()

    halves, grads = jax.vmap(one)(jax.random.split(key, pairs))
    mean = grads.mean(0)
    trace = jnp.square(grads - mean).sum() / (pairs - 1)
    signal = jnp.square(mean).sum() - trace / pairs
    return jnp.sqrt(jnp.square(halves).mean()), (theta.size + 1) * signal / trace


def hessian(fn, theta: jax.Array, h: Any) -> jax.Array:
    """f32[d, d]: second differences of `fn` (f32[...] -> f32[]) over steps of h along two coordinates."""
    size = theta.size
    unit = h * jnp.eye(size).reshape(size, *theta.shape)

    def entry(i, j):
        at = [fn(theta + a * unit[i] + b * unit[j]) for a, b in ((1, 1), (1, -1), (-1, 1), (-1, -1))]
        return (at[0] - at[1] - at[2] + at[3]) / (4 * h**2)

    rows, columns = np.triu_indices(size)
    found = jnp.zeros((size, size)).at[rows, columns].set(jax.vmap(entry)(rows, columns))
    return found + jnp.triu(found, 1).T


def _episode(problem):
    def episode(theta, key):
        key_init, key_steps = jax.random.split(key)
        state, _ = problem.system.init(theta, key_init)
        keys = jax.random.split(key_steps, T)
        return -jax.lax.scan(lambda s, k: problem.system.step(theta, s, k, ()), state, keys)[1].sum()

    return episode


def _saturated(thetas):
    """f64[R]: share of the torques of an episode that are clipped."""

    def one(theta, key):
        q, qdot = jax.random.uniform(key, (2, 5), minval=-0.1, maxval=0.1)

        def step(state, _):
            control = theta @ jnp.concatenate([state.q[2:], state.qdot])
            return control_step(state, control), (jnp.abs(control) > 1).mean()

        return jax.lax.scan(step, SwimmerState(q, qdot), length=T)[1].mean()

    return np.asarray(jax.jit(jax.vmap(one, (0, None)))(thetas, jax.random.key(5)), float)


def _trained(problem, sigmas, total, seeds):
    """Final policies f32[sigmas, seeds, 2, 8] of PES, and what is known of each."""
    many, cost = control.runs(problem, PES)
    sigma, seed = (jnp.asarray(x) for x in zip(*[(s, k) for s in sigmas for k in seeds], strict=True))
    updates = total // cost
    thetas = many(sigma, jnp.full(len(sigma), STEP), seed, updates, updates)[:, -1]
    found = control.returns(problem, thetas[:, None], EPISODES)[:, 0]
    numbers, shape = multipliers(thetas), (len(sigmas), len(seeds))
    return thetas, {
        "returns": found.reshape(shape).tolist(),
        "oscillates": oscillates(numbers).reshape(shape).tolist(),
        "largest": np.abs(numbers[:, 0]).reshape(shape).tolist(),
        "saturated": _saturated(thetas).reshape(shape).tolist(),
    }


def _around(problem, members):
    """The return at several scales around policies f32[M, 2, 8] of one group: means over them."""
    statistics = jax.vmap(
        jax.vmap(lambda t, s, k: pair_statistics(_episode(problem), t, s, k), (None, 0, None)), (0, None, 0)
    )
    keys, scales = jax.random.split(jax.random.key(3), len(members)), jnp.asarray(SCALES)
    rms, linear = jax.jit(statistics)(members, scales, keys)
    noise = jax.random.normal(jax.random.key(4), (1000, 1, 1, 2, 8))
    near = members[None, :, None] + scales[:, None, None] * noise
    return {
        "rms": np.mean(rms, 0).tolist(),
        "linear": np.mean(linear, 0).tolist(),
        "oscillating": oscillates(multipliers(near)).mean((0, 1)).tolist(),
    }


def _curvature(problem, theta):
    """The largest curvature at each of CURVED scales: its size, its direction."""
    keys = jax.random.split(jax.random.key(6), EPISODES)

    def mean(theta):
        return jax.vmap(_episode(problem), (None, 0))(theta, keys).mean()

    found = np.asarray(jax.jit(jax.vmap(lambda h: hessian(mean, theta, h)))(jnp.asarray(CURVED)), float)
    rows = []
    for h, matrix in zip(CURVED, found, strict=True):
        values, vectors = np.linalg.eigh(matrix)
        top = np.argmax(np.abs(values))
        weight = np.square(vectors[:, top].reshape(2, 8)).sum(0)
        share = {name: float(weight[columns].sum()) for name, columns in SEEN.items()}
        rows.append(
            {"h": h, "eigenvalue": float(values[top]), "bend": float(abs(values[top]) * h**2 / 2)} | share
        )
    return rows


def run(fast: bool, seeds: list[int]) -> dict[str, Any]:
    """160 000 environment steps per seed and sigma, then the landscape; --fast: a quarter, no curvature."""
    problem = swimmer(unroll_length=T)
    thetas, ends = _trained(problem, SIGMAS, TOTAL_FAST if fast else TOTAL, seeds)
    common.progress("PES")
    flat, groups = np.ravel(ends["returns"]), {}
    for label, belongs in GROUPS.items():
        members = np.zeros((4, 2, 8), np.float32) if label == "start" else thetas[belongs(flat)][:4]
        if len(members):
            groups[label] = _around(problem, jnp.asarray(members)) | {"members": len(members)}
            groups[label]["curvature"] = [] if fast else _curvature(problem, jnp.asarray(members[0]))
            common.progress(label)
    return {"sigmas": SIGMAS, "ends": ends, "curves": groups, "summary": _summary(SIGMAS, ends, groups)}


def _summary(sigmas, ends, groups):
    lines = {}
    for i, sigma in enumerate(sigmas):
        found, turns = np.asarray(ends["returns"][i]), np.asarray(ends["oscillates"][i])
        lines[f"sigma {sigma:g}"] = (
            f"median {np.median(found):.0f}, {(found > 325).sum()} of {len(found)} above 325, "
            f"{(found < 100).sum()} below 100; oscillate {turns.sum()}"
        )
    for label, group in groups.items():
        lines[label] = f"{group['members']} policies; scale: rms, linearity, share that oscillates"
        for scale, *row in zip(SCALES, group["rms"], group["linear"], group["oscillating"], strict=True):
            lines[f"  {label}, {scale:g}"] = "{:.1f}, {:.2f}, {:.2f}".format(*row)
        for row in group["curvature"]:
            lines[f"  {label}, curvature at {row['h']:g}"] = ", ".join(
                f"{name} {value:.3g}" for name, value in row.items() if name != "h"
            )
    flat, saturated = np.ravel(ends["returns"]), np.ravel(ends["saturated"])
    turns = np.ravel(ends["oscillates"])
    for label, chosen in (("stuck", flat < 100), ("solved", flat > 325)):
        if chosen.any():
            lines[f"all {label}"] = (
                f"{turns[chosen].sum()} of {chosen.sum()} oscillate; torques clipped in "
                f"{saturated[chosen].mean():.2f} of the steps ({saturated[chosen].min():.2f} to "
                f"{saturated[chosen].max():.2f})"
            )
    return lines


def draw(result: dict[str, Any], figure: Any) -> None:
    """Returns that PES ends at; differences of pairs against the scale; share that oscillates."""
    first, second, third = figure.subplots(1, 3)
    for i in range(len(result["sigmas"])):
        for found, turns in zip(result["ends"]["returns"][i], result["ends"]["oscillates"][i], strict=True):
            colour = common.COLOURS[0]
            first.plot(i, found, "o", color=colour, fillstyle="full" if turns else "none", alpha=0.8)
    first.set_xticks(range(len(result["sigmas"])), [f"{s:g}" for s in result["sigmas"]])
    first.set(xlabel="sigma of PES", ylabel="return after training (filled: oscillates)")
    for i, (label, group) in enumerate(result["curves"].items()):
        second.loglog(SCALES, group["rms"], color=common.COLOURS[i], marker=".", label=label)
        third.semilogx(SCALES, group["oscillating"], color=common.COLOURS[i], marker=".")
    scales = np.asarray(SCALES)
    second.loglog(scales, 20 * scales, color="0.6", linestyle=":", label="linear")
    second.set(xlabel="scale of the perturbation", ylabel="half the difference of a pair (rms)")
    third.set(xlabel="scale of the perturbation", ylabel="share of perturbed policies that oscillate")
    figure.legend(*second.get_legend_handles_labels(), loc="outside lower center", ncols=4)


if __name__ == "__main__":
    common.main(__doc__ or "", run, draw, seeds=list(range(10)))
