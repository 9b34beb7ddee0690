"""Which commit made the outer step slower: revisions against a reference, interleaved in one run.

    python -m benchmarks.compare v0.1.0                      the working tree against a tag
    python -m benchmarks.compare v0.1.0 v0.1.0..HEAD         some commits between them, too
    python -m benchmarks.compare old/bin/python HEAD~1 .     an environment with an earlier version

REFERENCE and REVISION are what git understands, "." for the working tree, or the Python of an environment.
Of a range, the newest commit and at most `--points` in all are taken, evenly spaced. Each runs in a process
of its own with its own `benchmarks/overhead.py` (an environment with that of the working tree), all but the
environments with the JAX that is installed here. In every repeat each process measures once. A ratio is the
median over the repeats [95 % interval of the median]. Below the table stands each workload's largest rise.
"""

import argparse
import io
import json
import math
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
# Says "ready" if it has all workloads. Then it reads the name of one and measures it once, for each line.
WORKER = """
import sys
sys.path.insert(0, sys.argv[1])
import overhead
unknown = [name for name in sys.argv[2:] if name not in overhead.WORKLOADS]
if unknown:
    sys.exit(f"unknown workload {unknown[0]}, allowed: {', '.join(overhead.WORKLOADS)}")
print("ready", flush=True)
runs = {}
for line in sys.stdin:
    name = line.strip()
    w = overhead.WORKLOADS[name]
    if name not in runs:
        runs[name] = overhead.framework(w, overhead.family_of(w))
    print(overhead.milliseconds(runs[name]) / w.group, flush=True)
"""


class Version(NamedTuple):
    """What is measured.

    Attributes:
      title: for the table.
      python: that runs it.
      tree: that it imports; None for what its Python has installed.
      benchmarks: the folder with its `overhead.py`.
    """

    title: str
    python: str
    tree: Path | None
    benchmarks: Path


class Process(NamedTuple):
    """The process of a version, and the file of what it writes to stderr."""

    version: Version
    popen: Any
    errors: Any


class CannotCompare(Exception):
    """One line that says why."""


def git(*arguments: str) -> bytes:
    """The output of git in the project's folder; a CannotCompare with its message if it fails."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    if done.returncode:
        raise CannotCompare(done.stderr.decode().strip().splitlines()[0])
    return done.stdout


def commits(revision: str, points: int) -> list[str]:
    """The commits of a range A..B, oldest first, at most `points` of them; another revision is itself."""
    if ".." not in revision:
        return [revision]
    found = git("rev-list", "--reverse", revision).decode().split()
    if not found:
        raise CannotCompare(f"there is no commit in {revision}")
    number = min(points, len(found))
    return [found[math.ceil((i + 1) * len(found) / number) - 1] for i in range(number)]


def version(revision: str, folder: Path) -> Version:
    """A revision, checked out into a new folder in `folder`; or the environment of a Python."""
    if revision == ".":
        return Version("working tree", sys.executable, ROOT, ROOT / "benchmarks")
    if os.access(revision, os.X_OK) and Path(revision).is_file():
        return Version(revision, str(Path(revision).absolute()), None, ROOT / "benchmarks")
    title = git("log", "-1", "--format=%h %s", revision, "--").decode().strip()
    tree = folder / title.split()[0]
    with tarfile.open(fileobj=io.BytesIO(git("archive", revision))) as archive:
        archive.extractall(tree, filter="data")
    return Version(title, sys.executable, tree, tree / "benchmarks")


def start(one: Version, workloads: list[str]) -> Process:
    """The process that measures a version, ready for the workloads."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if one.tree:
        environment["PYTHONPATH"] = str(one.tree)
    errors = tempfile.TemporaryFile("w+")
    popen = subprocess.Popen(
        [one.python, "-P", "-c", WORKER, str(one.benchmarks), *workloads],
        env=environment,
        cwd=one.tree or tempfile.gettempdir(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
    )
    return Process(one, popen, errors)


def answer(process: Process) -> str:
    """The next line that it prints; a CannotCompare with its last error if there is none."""
    line = process.popen.stdout.readline().strip()
    if not line:
        process.popen.wait()
        process.errors.seek(0)
        last = (process.errors.read().strip() or "it ended without an error").splitlines()[-1]
        raise CannotCompare(f"{process.version.title} cannot be measured: {last}")
    return line


def milliseconds(process: Process, workload: str) -> float:
    """One measurement."""
    process.popen.stdin.write(workload + "\n")
    process.popen.stdin.flush()
    return float(answer(process))


def measure(versions: list[Version], workloads: list[str], repeats: int) -> dict[str, list[list[float]]]:
    """Workload -> milliseconds of each version, the reference first, in every repeat."""
    processes = [start(one, workloads) for one in versions]
    try:
        for process in processes:
            answer(process)
        found = {}
        for workload in workloads:
            print(f"  {workload}: {len(versions)} versions compile", file=sys.stderr, flush=True)
            for process in processes:
                milliseconds(process, workload)
            rows: list[list[float]] = [[] for _ in versions]
            for i in range(repeats):
                order = list(zip(processes, rows, strict=True))
                for process, row in reversed(order) if i % 2 else order:
                    row.append(milliseconds(process, workload))
            found[workload] = rows
        return found
    finally:
        for process in processes:
            process.popen.kill()
            process.popen.communicate()
            process.errors.close()


def ratio(ours: list[float], reference: list[float]) -> tuple[float, float, float]:
    """The median of the ratios of a repeat, and its 95 % interval, from their order."""
    ratios = sorted(a / b for a, b in zip(ours, reference, strict=True))
    n = len(ratios)
    k = max(0, math.floor((n - 1.96 * math.sqrt(n)) / 2))
    return statistics.median(ratios), ratios[k], ratios[n - 1 - k]


def report(versions: list[Version], found: dict[str, list[list[float]]]) -> list[str]:
    """The table, a line for each version and workload, and the largest rise of each workload."""
    titles = [one.title[:52] for one in versions]
    lines, rises = [f"{'':52} {'':4} {'ms':>9}   ratio [95 %]"], []
    for workload, rows in found.items():
        ratios = [ratio(row, rows[0]) for row in rows]
        for title, row, (middle, low, high) in zip(titles, rows, ratios, strict=True):
            figures = f"{statistics.median(row):9.2f}   {middle:.2f} [{low:.2f}, {high:.2f}]"
            lines.append(f"{title:52} {workload:4} {figures}")
        middles = [middle for middle, _, _ in ratios]
        i = max(range(1, len(middles)), key=lambda i: middles[i] / middles[i - 1])
        rises.append(
            f"{workload}: the largest rise is {middles[i - 1]:.2f} to {middles[i]:.2f}, from {titles[i - 1]}"
            f" to {titles[i]}"
        )
    return lines + rises


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reference", metavar="REFERENCE")
    parser.add_argument("revisions", nargs="*", metavar="REVISION", help='default: "."')
    parser.add_argument("--workloads", nargs="+", default=["W1", "W4", "W6"], metavar="NAME")
    parser.add_argument("--points", type=int, default=6, help="commits of a range (default: 6)")
    parser.add_argument("--repeats", type=int, default=15, help="at least 2 (default: 15)")
    parser.add_argument("--json", metavar="FILE", help="write all times to FILE")
    args = parser.parse_args(argv)
    if args.points < 1 or args.repeats < 2:
        parser.error("--points must be at least 1, --repeats at least 2")
    try:
        with tempfile.TemporaryDirectory() as folder:
            wanted = [args.reference] + [
                commit for one in args.revisions or ["."] for commit in commits(one, args.points)
            ]
            versions = [version(one, Path(folder)) for one in wanted]
            found = measure(versions, args.workloads, args.repeats)
    except CannotCompare as error:
        parser.error(str(error))
    print("\n".join(report(versions, found)))
    if args.json:
        titles = [one.title for one in versions]
        Path(args.json).write_text(json.dumps({"versions": titles, "ms": found}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
