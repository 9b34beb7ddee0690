"""Files that commands write for people and other programs."""

import os
from pathlib import Path

from learned_opt.artefact.atomic import write_file
from meta_train.errors import RunError


def replace(path: str | os.PathLike, content: bytes | str) -> None:
    """Makes or replaces a file, and the directories above it: completely or not at all.

    Raises:
      RunError: it cannot be written.
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, content)
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}") from error
