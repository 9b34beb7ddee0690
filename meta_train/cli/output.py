"""What several commands write."""

import json
from pathlib import Path
from typing import Any


def write_json(file: str | None, value: Any) -> None:
    """Writes a value as JSON; nowhere if there is no file (RunError if it cannot be written)."""
    from meta_train.errors import RunError

    if file is None:
        return
    try:
        Path(file).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise RunError(f"cannot write {file}: {error.strerror}") from error
