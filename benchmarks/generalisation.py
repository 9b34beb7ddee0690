"""What makes a learned optimizer generalise: `configs/general.yaml` with one thing changed at a time.

    python benchmarks/generalisation.py [VARIANT ...] [--out DIR] [--outer-steps 1200] [--seed 0]

`general` changes the units of the tasks of two families by little; `strong_reparameterisation` is the config
as it stands; every other is `general` with one more change. Each variant is meta-trained as long as the
others, in inner steps, and measured on rings A and B against tuned Adam (`meta-train evaluate --tasks A+B
--rivals adam --trials 1`). What is finished in DIR is not run again: variants can be run one by one, or by
several processes. Writes DIR/VARIANT-SEED/evaluation.json; prints a table.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from meta_train.config.file import dump, read

CONFIG = Path(__file__).parents[1] / "configs" / "general.yaml"
PAIRS = 2  # of each family
Change = Callable[[dict[str, Any]], object]


def _only(config: dict[str, Any], tasks: list[dict[str, Any]]) -> None:
    """These families in place of the config's, with as many pairs in all."""
    config["estimator"]["num_particles"] = PAIRS * len(config["tasks"]) // len(tasks)
    config["tasks"] = tasks


def _narrow(config: dict[str, Any]) -> None:
    """Two families, like the quickstart's."""
    data = {
        32: ["digits[:1200]", "teacher:1[:1200]", "teacher:2[:1200]"],
        80: ["digits[:1200]", "teacher:4[:1200]"],
    }
    mlp = {"name": "image_mlp"}
    _only(config, [mlp | {"label": f"mlp_{w}", "hidden": [w], "datasets": data[w]} for w in data])


def _some(*labels: str) -> Change:
    return lambda config: _only(config, [task for task in config["tasks"] if task["label"] in labels])


def _units(ranges: dict[str, dict[str, Any]]) -> Change:
    """Other units for the tasks of these families alone."""

    def change(config):
        for task in config["tasks"]:
            task.pop("augment", None)
            if task["label"] in ranges:
                task["augment"] = [{"name": "reparameterise", **ranges[task["label"]]}]

    return change


MILD = {"mlp_deep": {"low": 0.3, "high": 3.0}, "batch_256": {"level": "tensor", "low": 0.5, "high": 2.0}}


def _set(section: str, **values: Any) -> Change:
    return lambda config: config[section].update(values)


def _loss(name: str) -> Change:
    return lambda config: config["inner"]["objective"].update(loss=name)


def _top(**values: Any) -> Change:
    return lambda config: config.update(values)


STRONG = "strong_reparameterisation"
VARIANTS: dict[str, Change] = {
    "general": lambda config: None,
    "two_families": _narrow,
    "mlps_only": _some("mlp_32", "mlp_deep", "mlp_wide", "mlp_norm", "batch_12", "batch_256"),
    "no_reparameterisation": _units({}),
    STRONG: lambda config: None,
    "validation_loss": _loss("valid"),
    "short_horizons": _set("inner", unroll_length={"min": 100, "max": 200}),
    "weight_decay": _set("learned_optimizer", weight_decay=0.1),
    "no_tensor_rates": _set("learned_optimizer", tensor_hidden=0),
    "no_schedule": _set("learned_optimizer", tensor_hidden=0, schedule_limit=1e-6),
    "adafac_mlp": _top(learned_optimizer={"name": "adafac_mlp", "hidden": 8}),
    "loss_scaling": _top(loss_scaling="ema"),
}


def config_of(variant: str, outer_steps: int, seed: int) -> dict[str, Any]:
    """The config of a variant: the general one with mild changes of units, changed in one thing."""
    config = read(CONFIG)
    config |= {"outer_steps": outer_steps, "seed": seed}
    if variant != STRONG:
        _units(MILD)(config)
    config["selection"]["every"] = config["checkpoint"]["every"] = outer_steps // 3
    VARIANTS[variant](config)
    return config


def run(variant: str, out: Path, outer_steps: int, seed: int) -> None:
    """Meta-trains and evaluates one variant, each if it has not been done yet."""
    directory = out / f"{variant}-{seed}"
    directory.mkdir(parents=True, exist_ok=True)
    file, trained = directory / "config.yaml", directory / "run"
    file.write_text(dump(config_of(variant, outer_steps, seed)), encoding="utf-8")
    command = [sys.executable, "-m", "meta_train"]
    resume = ["--resume"] if trained.exists() else []
    subprocess.run([*command, "run", str(file), "--out", str(trained), *resume], check=True)
    if not (directory / "evaluation.json").exists():
        options = ["--tasks", "A+B", "--rivals", "adam", "--trials", "1"]
        places = ["--out", str(directory), "--cache", str(out / "baselines")]
        subprocess.run([*command, "evaluate", str(trained), *options, *places], check=True)


def finished(out: Path) -> dict[tuple[str, str], dict[str, Any]]:
    """(variant, seed) -> its evaluation, in the order of VARIANTS."""
    found = {}
    for variant in VARIANTS:
        for file in sorted(out.glob(f"{variant}-*/evaluation.json")):
            found[variant, file.parent.name.rpartition("-")[2]] = json.loads(file.read_text(encoding="utf-8"))
    return found


def table(out: Path) -> str:
    """Step speed-up over tuned Adam of all variants that are finished, as Markdown."""
    rows = [
        "| variant | seed | ring A | ring B | worst | validation loss / Adam's, A | B |",
        "|---|---|---|---|---|---|---|",
    ]
    for (variant, seed), document in finished(out).items():
        scores = {ring: document["scores"][f"ring {ring}"]["per_task_tuned"] for ring in "AB"}
        text = {
            (ring, metric): _interval(scores[ring][metric])
            for ring in "AB"
            for metric in ("speed_up", "valid_ratio/adam")
        }
        worst = min(scores[ring]["speed_up"]["worst"] for ring in "AB")
        rows.append(
            f"| {variant} | {seed} | {text['A', 'speed_up']} | {text['B', 'speed_up']} | {worst:.2f} "
            f"| {text['A', 'valid_ratio/adam']} | {text['B', 'valid_ratio/adam']} |"
        )
    return "\n".join(rows)


def picture(out: Path, file: Path) -> None:
    """Step speed-up of every finished variant on every task, as a heat map."""
    import matplotlib.pyplot as plt
    import numpy as np
    from matplotlib.colors import TwoSlopeNorm

    found = finished(out)
    cells = next(iter(found.values()))["cells"]
    values = np.array(
        [
            [c["outcomes"]["per_task_tuned"]["speed_up"] for c in document["cells"]]
            for document in found.values()
        ]
    )
    fig, ax = plt.subplots(figsize=(13, 1.6 + 0.42 * len(found)), layout="constrained")
    image = ax.imshow(np.log2(values), cmap="RdBu", norm=TwoSlopeNorm(0, -2, 2), aspect="auto")
    for (i, j), value in np.ndenumerate(values):
        color = "white" if abs(np.log2(value)) > 1.3 else "black"
        ax.text(j, i, f"{value:.1f}", ha="center", va="center", fontsize=8, color=color)
    ax.set_xticks(range(len(cells)), [f"{c['ring']}: {c['task']} {c['horizon']}" for c in cells], rotation=90)
    ax.set_yticks(range(len(found)), [f"{variant}, seed {seed}" for variant, seed in found])
    ax.set_title("Step speed-up over Adam, tuned for each task and horizon (blue: faster)")
    fig.colorbar(image, label="log2", pad=0.01)
    fig.savefig(file, dpi=110)


def _interval(score: dict[str, Any]) -> str:
    mean = score["geometric_mean"]
    return f"{mean['value']:.2f} [{mean['low']:.2f}, {mean['high']:.2f}]"


def main() -> None:
    """Runs the variants named on the command line, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help=", ".join(VARIANTS))
    parser.add_argument("--out", type=Path, default=Path("runs/generalisation"))
    parser.add_argument("--outer-steps", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the finished ones, and run none")
    args = parser.parse_args()
    unknown = set(args.variants) - set(VARIANTS)
    if unknown:
        parser.error(f"no variant {', '.join(sorted(unknown))}; there are {', '.join(VARIANTS)}")
    if args.picture:
        picture(args.out, args.picture)
    else:
        for variant in args.variants or VARIANTS:
            run(variant, args.out, args.outer_steps, args.seed)
    print(table(args.out))


if __name__ == "__main__":
    main()
