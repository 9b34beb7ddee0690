"""How long devices wait for each other when task families cost differently: simulated with delays.

    python -m benchmarks.stragglers [--families 16] [--devices 4] [--spread 100] [--repeats 5]

Each family's inner step sleeps instead of computing; the costs lie evenly, in their logarithms, between 1
and `--spread`. Every device has as many particles of every family as the others (`shard_average`), so that
none should wait for long. Idle time is what is left of the devices' time: one less the sum of all delays
over devices x the time of an outer step; it counts everything that is no delay. For comparison: what would
be idle if whole families were placed on devices, the most costly first, each on the device that has the
least to do; and if each family had a device of its own.
"""

import argparse
import os
import statistics
import time


def idle_of_whole_families(costs: list[float], devices: int) -> float:
    """The idle part of the devices' time if each family is on one device, placed greedily."""
    load = [0.0] * devices
    for cost in sorted(costs, reverse=True):
        load[load.index(min(load))] += cost
    return 1 - sum(load) / (devices * max(load))


def measure(costs: list[float], devices: int, repeats: int, unit: float) -> tuple[float, list[float]]:
    """Seconds of an outer step, medians; and the idle part of each repeat.

    Args:
      costs: of an inner step of each family, in units.
      devices: particles are split over.
      repeats: outer steps.
      unit: seconds.
    """
    import jax
    import jax.numpy as jnp
    import optax

    from meta_train.core.devices import particle_mesh, shard_average
    from meta_train.core.outer import make_outer_step
    from meta_train.core.system import UnrolledSystem
    from meta_train.estimators import ESTIMATORS

    delays = []

    def system(cost):
        def work(losses):
            seconds = cost * unit * losses.size
            time.sleep(seconds)
            delays.append(seconds)
            return losses

        def step(theta, state, key, data):
            loss = jnp.square(theta - state) + jax.random.normal(key)  # new at every step: it is not hoisted
            return state, jax.pure_callback(work, loss, loss, vmap_method="broadcast_all")

        return UnrolledSystem(lambda theta, key: (jax.random.normal(key), jnp.int32(4)), step, 4, 4)

    options = {"num_particles": devices, "truncation_length": 4, "sigma": 0.1}
    families = {str(i): ESTIMATORS["pes"](system(cost), **options) for i, cost in enumerate(costs)}
    chunks: dict[str, int | None] = dict.fromkeys(families)
    estimator = shard_average(families, particle_mesh(devices), chunks=chunks)
    outer = make_outer_step(lambda key: jnp.float32(0), estimator, optax.sgd(0.01))
    state, data = outer.init(jax.random.key(0)), dict.fromkeys(families)
    times, idle = [], []
    for i in range(repeats + 1):
        delays.clear()
        start = time.perf_counter()
        state, metrics = outer.step(state, data)
        jax.block_until_ready((state, metrics))
        if i:  # the first call compiles
            times.append(time.perf_counter() - start)
            idle.append(1 - sum(delays) / (devices * times[-1]))
    return statistics.median(times), idle


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--families", type=int, default=16)
    parser.add_argument("--devices", type=int, default=4)
    parser.add_argument("--spread", type=float, default=100.0, help="most costly over least (default: 100)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--unit", type=float, default=1e-3, help="seconds of the least cost (default: 1e-3)")
    args = parser.parse_args()
    if min(args.families, args.devices) < 2 or args.repeats < 1 or args.spread < 1 or args.unit <= 0:
        parser.error("--families and --devices must be >= 2, --repeats and --spread >= 1, --unit > 0")
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    flags = f" --xla_force_host_platform_device_count={args.devices}"
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + flags
    costs = [args.spread ** (i / (args.families - 1)) for i in range(args.families)]
    seconds, idle = measure(costs, args.devices, args.repeats, args.unit)
    print(f"{args.families} families on {args.devices} devices, {1000 * seconds:.0f} ms an outer step")
    print(f"idle: {statistics.median(idle):.1%} (of {args.repeats}: {min(idle):.1%} to {max(idle):.1%})")
    print(f"whole families on devices: {idle_of_whole_families(costs, args.devices):.1%}")
    print(f"a device for each family: {idle_of_whole_families(costs, args.families):.1%}")


if __name__ == "__main__":
    main()
