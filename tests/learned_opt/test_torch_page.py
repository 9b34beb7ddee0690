"""The loop of docs/pytorch.md trains: `pytest -m torch`."""

import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch
PAGE = Path(__file__).parents[2] / "docs" / "pytorch.md"


def test_the_loop_of_the_page_trains():
    (code,) = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    torch.manual_seed(0)
    names = {}
    exec(compile(code, str(PAGE), "exec"), names)
    assert names["loss"].item() < 0.1 * names["y"].var().item()
