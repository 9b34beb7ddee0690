"""Why a search with little noise may never learn to swim: returns around a policy, at four sizes of noise."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from reproductions import common, control
from reproductions.systems.outer_problem import OuterProblem

SIGMAS = (0.01, 0.03, 0.1, 0.2)
TRIED = (0.01, 0.03)  # sigmas that ARS is trained with, beside the 0.1 of the page
EPISODES = 2


def around(problem: OuterProblem, theta: np.ndarray, draws: np.ndarray) -> dict[str, Any]:
    """Returns at theta +- sigma draws, [sigma][2][M], and at theta; draws f32[M, ...] from N(0, 1).

    All meet the same two starts.
    """
    thetas = [theta + sign * sigma * draws for sigma in SIGMAS for sign in (1, -1)]
    flat = np.concatenate([*thetas, theta[None]]).astype(np.float32)
    found = control.returns(problem, flat[None], EPISODES)[0]
    pairs = found[:-1].reshape(len(SIGMAS), 2, len(draws))
    return {"theta": theta.tolist(), "return": float(found[-1]), "pairs": pairs.tolist()}


def measure(problem: OuterProblem, seeds: list[int], *, updates: int, pairs: int) -> dict[str, Any]:
    """ARS with little noise on every seed, and the returns around its start and its worst end.

    Returns:
      "returns": [sigma][seeds], at the end; "draws": [M][...]; "start" and "stuck": from `around`.
    """
    sigma, seed = (x.ravel() for x in np.meshgrid(TRIED, seeds, indexing="ij"))
    method = control.Method("ars", {}, ())
    many, _ = control.runs(problem, method)
    steps = jnp.full(len(seed), 0.02)
    ends = many(jnp.asarray(sigma, jnp.float32), steps, jnp.asarray(seed), updates, updates)[:, -1:]
    found = control.returns(problem, ends, EPISODES)[:, 0]
    common.progress("ARS with little noise")
    draws = np.asarray(jax.random.normal(jax.random.key(0), (pairs, *ends.shape[2:])))
    stuck = np.asarray(ends[int(found.argmin()), 0])
    result = {
        "returns": found.reshape(len(TRIED), -1).tolist(),
        "draws": draws.tolist(),
        "start": around(problem, np.zeros_like(stuck), draws),
        "stuck": around(problem, stuck, draws),
    }
    common.progress("returns around")
    return result


ANGLES = [0, 1, 8, 9]  # what heading and first joint angle do to both motors, of theta f32[2, 8]


def fit(pairs: np.ndarray, draws: np.ndarray, here: float, sigma: float) -> tuple[float, float, float]:
    """From returns [2, M] at theta +- sigma draws [M, D], and the return at theta.

    Returns:
      The norm of the gradient (least squares on R+ - R-), the share of its square in `ANGLES`, and the
      curvature along it (least squares of R+ + R- - 2 R on the squares along it and across).
    """
    gradient = np.linalg.lstsq(draws, pairs[0] - pairs[1], rcond=None)[0] / (2 * sigma)
    norm = float(np.linalg.norm(gradient))
    along = np.square(draws @ gradient / norm)
    squares = np.stack([along, np.square(draws).sum(1) - along], 1)
    curvature = np.linalg.lstsq(squares, pairs.sum(0) - 2 * here, rcond=None)[0][0] / sigma**2
    return norm, float(np.square(gradient[ANGLES]).sum() / norm**2), float(curvature)


def summary(found: dict[str, Any]) -> dict[str, str]:
    """Of both policies at every sigma: what `fit` finds with 95 % bootstrap intervals, and the best draws."""
    draws = np.asarray(found["draws"]).reshape(len(found["draws"]), -1)
    lines = {}
    for sigma, ends in zip(TRIED, found["returns"], strict=True):
        lines[f"ARS, sigma {sigma}"] = "at the end " + " ".join(f"{x:.0f}" for x in sorted(ends))
    for name in ("start", "stuck"):
        here = found[name]["return"]
        for sigma, one in zip(SIGMAS, found[name]["pairs"], strict=True):
            pairs, rng = np.asarray(one), np.random.default_rng(0)
            samples = [rng.integers(0, len(draws), len(draws)) for _ in range(300)]
            again = np.array([fit(pairs[:, s], draws[s], here, sigma) for s in samples])
            low, high = np.percentile(again, [2.5, 97.5], axis=0)
            texts = [
                f"{x:.3g} [{a:.3g}, {b:.3g}]"
                for x, a, b in zip(fit(pairs, draws, here, sigma), low, high, strict=True)
            ]
            gain = pairs - here
            lines[f"{name}, sigma {sigma}"] = (
                f"|gradient| {texts[0]}, in the angles {texts[1]}, curvature along it {texts[2]}; a draw "
                f"gains at most {gain.max():.0f}, over 30 with {(gain > 30).sum()} of {gain.size}"
            )
    return lines
