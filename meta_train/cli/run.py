"""`meta-train run`."""

import argparse
from pathlib import Path
from typing import Any

from meta_train.cli import processes
from meta_train.cli.output import write_json


def add(commands: Any) -> None:
    """Declares the command and its options."""
    run = commands.add_parser("run", help="meta-train as a config file says")
    run.add_argument("config", metavar="CONFIG", help="a YAML file")
    run.add_argument("overrides", nargs="*", metavar="key.sub=value", help="replaces one value of the config")
    run.add_argument(
        "--out", type=Path, metavar="DIR", help="directory of the run (default: runs/CONFIG's name)"
    )
    run.add_argument("--resume", action="store_true", help="continue the run in that directory")
    run.add_argument("--dry-run", action="store_true", help="print the resolved config and what it will take")
    run.add_argument("--json", metavar="FILE", help="write what was measured to FILE")
    run.add_argument(
        "--profile", type=Path, metavar="DIR", help="write a JAX trace of a few outer steps to DIR"
    )
    processes.add_options(run)
    run.set_defaults(command=run_command)


def run_command(args: argparse.Namespace) -> int:
    """`meta-train run`."""
    from meta_train.config import load as config_lib
    from meta_train.parallel import hosts
    from meta_train.run.session import train
    from meta_train.run.train import SILENT

    processes.join(args)
    config = config_lib.load(args.config, args.overrides)
    directory = args.out or Path("runs") / Path(args.config).stem
    if args.dry_run:
        return dry_run(config, args.json)
    display = None if hosts.is_first() else SILENT
    result = train(config, directory, resume=args.resume, display=display, profile=args.profile)
    if not hosts.is_first():
        return 0
    if result.start_seconds is None:
        print(f"{directory} is finished already: {result.outer_steps} outer steps")
    else:
        print(
            f"{result.outer_steps} outer steps in {result.seconds:.0f} s, the first after "
            f"{result.start_seconds:.1f} s; the run is in {directory}"
        )
        print(f"next: meta-train evaluate {directory}")
    write_json(
        args.json,
        {
            "directory": str(directory),
            "outer_steps": result.outer_steps,
            "seconds": result.seconds,
            "start_seconds": result.start_seconds,
        },
    )
    return 0


def dry_run(config: Any, json_file: str | None) -> int:
    """Prints the resolved config and the forecast of the run's size; compiles nothing."""
    from meta_train.config import load as config_lib
    from meta_train.run.experiment import assemble
    from meta_train.run.forecast import forecast
    from meta_train.run.train import set_up_jax

    set_up_jax(config)
    try:
        sizes = forecast(assemble(config, trace=False))
    except (TypeError, ValueError):
        sizes = forecast(assemble(config))  # its checks name in one line what the forecast stumbled over
    print(config_lib.to_yaml(config))
    mib = 2**20
    print(f"# meta-parameters        {sizes.num_meta_parameters:,}")
    print(f"# particles' state       {sizes.particles / mib:.2f} MiB")
    print(f"# noise, at most         {sizes.noise / mib:.2f} MiB  (3 N |theta| floats)")
    print(f"# data                   {sizes.data / mib:.2f} MiB")
    print(f"# one device, about      {sizes.memory / mib:.2f} MiB  (all of it, and what a window takes)")
    print(f"# inner steps per outer  {sizes.inner_steps:,}")
    write_json(json_file, sizes._asdict() | {"config": config_lib.resolved(config)})
    return 0
