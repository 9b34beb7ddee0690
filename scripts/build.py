"""Builds the sdist and the wheel, and says their sha256: the same in all bits for the same commit.

    python scripts/build.py [dist [COMMIT]]

What is built is the commit, the last one if none is named, whatever else lies in the working tree. Times in
the archives are those of the commit.
"""

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def build(target: Path, commit: str) -> dict[str, str]:
    """The sha256 of each file that was built, by its name."""
    epoch = _git("log", "-1", "--format=%ct", commit).decode().strip()
    with tempfile.TemporaryDirectory() as source:
        subprocess.run(["tar", "-x", "-C", source], input=_git("archive", commit), check=True)
        command = [sys.executable, "-m", "build", "--outdir", str(target.absolute()), source]
        env = {**os.environ, "SOURCE_DATE_EPOCH": epoch}
        subprocess.run(command, env=env, check=True, stdout=subprocess.DEVNULL)
    built = sorted(path for path in target.iterdir() if path.name.endswith((".whl", ".tar.gz")))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in built}


def _git(*words: str) -> bytes:
    return subprocess.run(["git", *words], cwd=ROOT, check=True, capture_output=True).stdout


if __name__ == "__main__":
    words = [*sys.argv[1:], *("dist", "HEAD")[len(sys.argv) - 1 :]]
    for name, digest in build(Path(words[0]), words[1]).items():
        print(digest, name)
