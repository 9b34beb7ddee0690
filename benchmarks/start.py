"""From `meta-train run` to the first outer steps, without and with the persistent compilation cache.

    python benchmarks/start.py [--json FILE]

The whole process is timed, imports and the checkpoint at the end included: a little more than the
start. The config is the quickstart's, stopped after one call of the outer step. Limits: 30 s, then 12 s.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"


def seconds(out: Path, cache: Path) -> float:
    """Wall time of one process that ends after ten outer steps."""
    overrides = ["outer_steps=10", "selection.every=null", f"runtime.compilation_cache={cache}"]
    command = [sys.executable, "-m", "meta_train", "run", str(CONFIG), *overrides, "--out", str(out)]
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Measures and prints."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("--json", metavar="FILE", help="write the figures to FILE")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        results = {name: seconds(Path(folder) / name, cache) for name in ("first", "second")}
    for name, value in results.items():
        print(f"{name:6} {value:6.1f} s")
    if args.json:
        Path(args.json).write_text(json.dumps(results) + "\n")


if __name__ == "__main__":
    main()
