"""The options of a command that several processes can run together (docs/scale.md)."""

import argparse


def add_options(parser: argparse.ArgumentParser) -> None:
    """Declares them, in a group of their own."""
    several = parser.add_argument_group("several processes, with one command line each (docs/scale.md)")
    several.add_argument("--coordinator", metavar="HOST:PORT", help="where process 0 is")
    several.add_argument("--num-processes", type=int, metavar="P", help="how many there are")
    several.add_argument("--process-id", type=int, metavar="I", help="which one this is, 0 to P - 1")
    several.add_argument(
        "--distributed", action="store_true", help="let JAX find the cluster (Slurm, Open MPI, TPU, ...)"
    )
    several.add_argument(
        "--heartbeat", type=int, default=30, metavar="S", help="seconds until a silent process counts as dead"
    )


def join(args: argparse.Namespace) -> None:
    """Joins the other processes, where there are some; before anything else of JAX.

    Raises:
      ConfigError, RunError: as `hosts.join`.
    """
    from meta_train.parallel import hosts

    if args.distributed or args.coordinator or args.num_processes or args.process_id is not None:
        hosts.join(args.coordinator, args.num_processes, args.process_id, args.heartbeat, args.distributed)
