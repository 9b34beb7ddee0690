"""What several commands write."""

import json
from typing import Any


def write_json(file: str | None, value: Any) -> None:
    """Writes a value as JSON; nowhere if there is no file (RunError if it cannot be written)."""
    from meta_train.evaluation.files import replace

    if file is not None:
        replace(file, json.dumps(value, indent=1) + "\n")
