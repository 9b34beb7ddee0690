"""`meta-train evaluate`."""

import argparse
from pathlib import Path

BASELINES = Path("runs") / "baselines"


def add(commands: argparse._SubParsersAction) -> None:
    """Declares the command."""
    parser = commands.add_parser(
        "evaluate",
        help="compare an optimizer with tuned hand-designed ones on held-out tasks",
        description="Trains held-out tasks with an optimizer and with tuned hand-designed ones. Writes "
        "evaluation.json, .csv, .png, .html and evaluation_scores.png.",
    )
    parser.add_argument(
        "source",
        metavar="SOURCE",
        help="directory of a run or an artefact, pretrained:NAME, or optax:NAME[_SCHEDULE][@RATE]",
    )
    parser.add_argument(
        "--tasks",
        metavar="RINGS",
        help="held_out, A, B, C, sanity, or several as A+B (default: A+B; of a run, what its config names)",
    )
    parser.add_argument("--horizons", type=int, nargs="+", metavar="H", help="steps (default: 200 500)")
    parser.add_argument("--num-seeds", type=int, metavar="S", help="and as many tuning seeds (default: 3)")
    parser.add_argument(
        "--rivals",
        nargs="+",
        metavar="NAME",
        help="optimizers of optax, NAME or NAME_SCHEDULE (default: Adam and five more; of a run, Adam)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="step factors to choose from at equal tuning budget; 1: not at all (default: 12; of a run, 1)",
    )
    parser.add_argument(
        "--last",
        action="store_true",
        help="of a run, the moving average at the newest checkpoint, not the theta of the best score",
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where the files go (default: RUN, or runs/evaluations/NAME)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="figures (default: DIR/evaluation.json)")
    parser.add_argument(
        "--cache", type=Path, default=BASELINES, metavar="DIR", help=f"tuned baselines (default: {BASELINES})"
    )
    parser.set_defaults(command=command)


def command(args: argparse.Namespace) -> int:
    """Runs the command."""
    from meta_train.cli.evaluate_source import evaluate_source

    evaluate_source(
        args.source,
        last=args.last,
        rings=args.tasks,
        options={
            "horizons": args.horizons,
            "num_seeds": args.num_seeds,
            "rivals": args.rivals,
            "trials": args.trials,
        },
        cache=args.cache,
        out=args.out,
        json_file=args.json,
    )
    return 0
