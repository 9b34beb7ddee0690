"""Writes the exact versions of all packages that one Python installs: a lock file for CI.

    python scripts/lock.py python3.11 --oldest > requirements/python3.11-oldest.txt
    python scripts/lock.py python3.13 > requirements/python3.13-newest.txt

pip resolves the project with its extras in an empty environment of that Python, and installs nothing.
With --oldest, jax and jaxlib are the oldest that pyproject.toml allows; everything else is the newest that
goes with them. A line is `name==version`; where packages come from is not recorded.
"""

import argparse
import json
import re
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = "train,dev,docs"  # what `make test` installs


def oldest() -> list[str]:
    """The oldest jax and jaxlib that pyproject.toml allows, as constraints."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [re.fullmatch(r"(jax|jaxlib)>=([\d.]+)", line) for line in project["dependencies"]]
    return [f"{match[1]}=={match[2]}" for match in found if match]


def resolved(python: str, constraints: list[str]) -> list[str]:
    """`name==version` of everything that a Python would install, sorted; the project itself is left out."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([python, "-m", "venv", folder], check=True)
        report = Path(folder) / "report.json"
        pip = [f"{folder}/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        wanted = [f"{ROOT}[{EXTRAS}]", *constraints]
        subprocess.run([*pip, "--dry-run", "--report", str(report), *wanted], check=True, stdout=sys.stderr)
        packages = json.loads(report.read_text(encoding="utf-8"))["install"]
    names = {package["metadata"]["name"]: package["metadata"]["version"] for package in packages}
    lines = {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in names.items()}
    return [f"{name}=={version}" for name, version in sorted(lines.items()) if name != "learned-opt"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("python", help="the interpreter to lock for")
    parser.add_argument("--oldest", action="store_true", help="with the oldest jax and jaxlib allowed")
    args = parser.parse_args()
    lines = resolved(args.python, oldest() if args.oldest else [])
    flag = " --oldest" if args.oldest else ""
    print(f"# Written by: python scripts/lock.py {Path(args.python).name}{flag}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
