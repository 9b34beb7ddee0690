"""The generated pages of docs/ are what the registries say now."""

from pathlib import Path

import pytest

from docs.make_tables import TABLES, part
from meta_train.estimators import CLAIMS, ESTIMATORS

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("file", TABLES)
def test_the_page_is_up_to_date(file):
    """If not: make docs."""
    assert (ROOT / "docs" / file).read_text(encoding="utf-8") == TABLES[file]()


@pytest.mark.parametrize("name", CLAIMS)
@pytest.mark.parametrize("key", ["Bias", "Variance", "Cost", "Reduces to", "Source", "Differs from it in"])
def test_every_estimator_says_what_it_is(name, key):
    import inspect

    assert part(inspect.getdoc(ESTIMATORS[name]) or "", key)
