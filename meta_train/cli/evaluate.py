"""`meta-train evaluate`."""

import argparse
from pathlib import Path

OPTIONS = ("horizons", "num_seeds", "num_tuning_seeds", "rivals", "rates", "tune_decay", "trials")
OPTIONS += ("archive_steps",)
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
        help="A, B, C, L (a ladder of sizes), XL, held_out, sanity, a task of one, a named task, your own as "
        "FILE.py:TASKS, or several as A+B (default: A+B; of a run, what its config names)",
    )
    parser.add_argument(
        "--architecture",
        metavar="FILE.py:FACTORY",
        help="of an artefact whose architecture is not of this package: its factory, which is executed",
    )
    parser.add_argument(
        "--horizons", type=int, nargs="+", metavar="H", help="steps (default: 200 500; of ring L, 500 2000)"
    )
    parser.add_argument("--num-seeds", type=int, metavar="S", help="seeds that are measured (default: 3)")
    parser.add_argument(
        "--num-tuning-seeds",
        type=int,
        metavar="S",
        help="other seeds that settings are chosen on (default: as many; on ring L, 1)",
    )
    parser.add_argument(
        "--rivals",
        nargs="+",
        metavar="NAME",
        help="hand-designed optimizers, NAME or NAME_SCHEDULE, @RATE for an untuned one; standard, untuned, "
        "all; artefacts; files of published weights, PATH?optimizer=celo (default: standard; of a run, Adam)",
    )
    _add_budget(parser)
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
        "--cache",
        type=Path,
        default=BASELINES,
        metavar="DIR",
        help=f"what was trained already (default: {BASELINES})",
    )
    parser.set_defaults(command=command)


def _add_budget(parser: argparse.ArgumentParser) -> None:
    """The options that decide how many trainings there are."""
    parser.add_argument(
        "--rates", type=int, metavar="N", help="learning rates that a rival is tuned over (default: 12)"
    )
    parser.add_argument(
        "--rates-only",
        dest="tune_decay",
        action="store_const",
        const=False,
        help="tune no weight decay: a third of the trainings",
    )
    parser.add_argument(
        "--archive-steps",
        type=int,
        metavar="N",
        help="steps of the Adam that speed-ups are measured against (default: 2000 or four times the longest "
        "horizon; on ring L, the longest horizon)",
    )
    parser.add_argument(
        "--trials",
        type=int,
        metavar="N",
        help="step factors to choose from at equal tuning budget; 1: not at all (default: 12; of a run, 1)",
    )


def command(args: argparse.Namespace) -> int:
    """Runs the command."""
    from meta_train.cli.evaluate_source import evaluate_source

    evaluate_source(
        args.source,
        last=args.last,
        rings=args.tasks,
        options={name: getattr(args, name) for name in OPTIONS},
        cache=args.cache,
        out=args.out,
        json_file=args.json,
        architecture=args.architecture,
    )
    return 0
