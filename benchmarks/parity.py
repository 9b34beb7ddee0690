"""How far each architecture is from the trajectories recorded from the original codes.

    python benchmarks/parity.py [--json docs/parity.json]

The cases are those of tests/learned_opt/test_parity.py; the figure is the largest deviation of a parameter in
six updates, over the largest distance that the parameters have moved (or over 1, if that is larger).
"""

import argparse
import importlib.util
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from learned_opt import LEARNED_OPTIMIZERS

TEST = Path(__file__).parents[1] / "tests" / "learned_opt" / "test_parity.py"


def deviation(case: str, cases) -> float:
    """The figure of one case of the test module."""
    name, options, fill = cases.CASES[case]
    golden = json.loads((cases.GOLDEN / f"{case}.json").read_text())
    lopt = LEARNED_OPTIMIZERS[name](**options)
    theta = jax.jit(lopt.init, compiler_options={"xla_backend_optimization_level": 0})(jax.random.key(0))
    if fill:
        theta = cases.filled(theta, golden["theta_amp"])

    @jax.jit
    def step(params, state, grads, value):
        tx = optax.with_extra_args_support(lopt.build(theta, golden.get("num_steps")))
        updates, state = tx.update(grads, state, params, value=value)
        return optax.apply_updates(params, updates), state

    names = golden["traj"][0]
    start = params = {k: v for k, v in cases.params0().items() if k in names}
    state, worst = lopt.build(theta, golden.get("num_steps")).init(params), 0.0
    for t, expected in enumerate(golden["traj"]):
        params, state = step(params, state, {k: cases.grads(t)[k] for k in names}, cases.loss(t))
        moved = max(float(jnp.abs(params[k] - start[k]).max()) for k in names)
        off = max(float(np.abs(np.ravel(params[k]) - expected[k]).max()) for k in names)
        worst = max(worst, off / max(1.0, moved))
    return worst


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    spec = importlib.util.spec_from_file_location("test_parity", TEST)
    assert spec is not None and spec.loader is not None
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    worst: dict[str, float] = {}
    for case, (name, _, _) in cases.CASES.items():
        off = deviation(case, cases)
        print(f"{case:26} {name:16} {off:.1e}", flush=True)
        worst[name] = max(worst.get(name, 0.0), off)
    if args.json:
        with open(args.json, "w") as file:
            json.dump({name: float(f"{off:.1e}") for name, off in worst.items()}, file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
