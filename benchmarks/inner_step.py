"""Where the time of an outer step goes: what the profiler of XLA's CPU runtime says, by kind of operation.

    python benchmarks/inner_step.py [W1 W2 ...] [--calls 2] [--json FILE]

The workloads are those of `benchmarks/overhead.py`, run by the framework. Every instruction of the compiled
program is of one kind, by what its fusion contains: the first of KINDS that applies. The time of an
instruction is its own, without that of the body of a loop, on the thread that runs the program; helping
threads are at work at the same time. The profiler makes tiny instructions slower than they are.
"""

import argparse
import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import jax
from overhead import WORKLOADS, Workload, family_of, outer_step_of

# kind -> HLO operations; one of them in the fusion is enough
KINDS: dict[str, tuple[str, ...]] = {
    "matrix products": ("dot", "convolution"),
    "random numbers": ("shift-right-logical", "xor", "rng-bit-generator"),
    "reductions": ("reduce", "reduce-window"),
    "gathers and scatters": ("gather", "scatter"),
    "elementwise": (
        *("add", "subtract", "multiply", "divide", "maximum", "minimum", "select", "compare", "negate"),
        *("exponential", "log", "rsqrt", "sqrt", "tanh", "power", "abs", "sign", "clamp", "and", "or"),
    ),
    "copies and concatenations": (
        *("copy", "concatenate", "broadcast", "slice", "pad", "transpose", "bitcast", "iota", "convert"),
        *("dynamic-slice", "dynamic-update-slice", "reverse"),
    ),
}
REST = "loops, calls and the rest"
PARTS = GRADIENT, REMAINDER = "inner problem", "the rest"


def instructions(hlo: str) -> dict[str, tuple[str, str]]:
    """Name of every instruction of a compiled program -> its kind, and the part of the work it belongs to."""
    bodies: dict[str, list[str]] = defaultdict(list)
    body = ""
    for line in hlo.splitlines():
        if opened := re.match(r"(?:ENTRY )?%?([\w.-]+) \(.*\{$", line):
            body = opened[1]
        elif "=" in line:
            bodies[body].append(line)
    operations = {
        name: {found for line in lines for found in _operations(line)} for name, lines in bodies.items()
    }
    random = {name for name, found in operations.items() if found & set(KINDS["random numbers"])}
    result = {}
    for name, lines in bodies.items():
        for line in lines:
            match = re.match(r"\s+(?:ROOT )?%?([\w.-]+) = ", line)
            if match is None:
                continue
            called = re.findall(r"(?:calls|to_apply|body)=%?([\w.-]+)", line)
            found = _operations(line) if " fusion(" not in line else set()
            for one in called if " while(" not in line else []:
                found |= operations.get(one, set())
            in_generator = name in random or any(one in random for one in called)
            result[match[1]] = "random numbers" if in_generator else _kind(found), _part(line)
    return result


def _operations(line: str) -> set[str]:
    return set(re.findall(r" ([a-z][\w-]*)\(%?[\w.-]*", line.partition("metadata=")[0].partition(" = ")[2]))


def _kind(found: set[str]) -> str:
    return next((kind for kind, members in KINDS.items() if found & set(members)), REST)


def _part(line: str) -> str:
    """By the name of the operation in JAX."""
    return GRADIENT if re.search(r'op_name="[^"]*jvp\(', line) else REMAINDER


def own_times(events: list[tuple[str, float, float]]) -> dict[str, float]:
    """Name -> nanoseconds, of events (name, start, length) that may contain others."""
    found: dict[str, float] = defaultdict(float)
    open_until: list[tuple[float, str]] = []
    for name, start, length in sorted(events, key=lambda event: (event[1], -event[2])):
        while open_until and open_until[-1][0] <= start:
            open_until.pop()
        if open_until:
            found[open_until[-1][1]] -= length
        found[name] += length
        open_until.append((start + length, name))
    return dict(found)


def profile(w: Workload, calls: int) -> dict[str, dict[str, float]]:
    """Kind -> part -> milliseconds of an outer step."""
    outer, state, data = outer_step_of(w, family_of(w))
    kinds = instructions(outer.step.lower(state, data).compile().as_text())
    state = jax.block_until_ready(outer.step(state, data))[0]
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(calls):
                state = jax.block_until_ready(outer.step(state, data))[0]
        trace = jax.profiler.ProfileData.from_file(str(next(Path(folder).rglob("*.xplane.pb"))))
    found: dict[str, dict[str, float]] = {kind: dict.fromkeys(PARTS, 0.0) for kind in (*KINDS, REST)}
    threads = [
        own_times([(e.name, e.start_ns, e.duration_ns) for e in line.events if e.name in kinds])
        for plane in trace.planes
        for line in plane.lines
    ]
    for name, nanoseconds in max(threads, key=lambda times: sum(times.values())).items():
        kind, part = kinds[name]
        found[kind][part] += nanoseconds / 1e6 / calls / w.group
    return found


def main() -> None:
    """Measures and prints."""
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    parser.add_argument("workloads", nargs="*", default=["W1", "W2"], help=f"of {', '.join(WORKLOADS)}")
    parser.add_argument("--calls", type=int, default=2)
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    if unknown := [name for name in args.workloads if name not in WORKLOADS]:
        parser.error(f"unknown workload {unknown[0]}, allowed: {', '.join(WORKLOADS)}")
    results: dict[str, Any] = {}
    for name in args.workloads:
        found = results[name] = profile(WORKLOADS[name], args.calls)
        total = sum(sum(parts.values()) for parts in found.values())
        print(f"{name}: {total:.1f} ms of an outer step")
        print(f"  {'':28}" + "".join(f"{part:>16}" for part in PARTS) + f"{'share':>8}")
        for kind, parts in found.items():
            numbers = "".join(f"{parts[part]:13.2f} ms" for part in PARTS)
            print(f"  {kind:28}{numbers}{sum(parts.values()) / total:8.0%}", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
