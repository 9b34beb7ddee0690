"""House style of the estimators of the project: those in CLAIMS. Nothing here is about being right."""

import inspect
import re

import pytest

from meta_train.estimators import CLAIMS, ESTIMATORS
from meta_train.testing import toys
from meta_train.testing.subject import build

SECTIONS = "Bias Variance Cost Reduces Args Returns Raises Source Differs".split()


def test_every_estimator_has_a_claim():
    assert set(CLAIMS) <= set(ESTIMATORS)


@pytest.mark.parametrize("name", CLAIMS)
def test_the_docstring_claims_what_is_measured(name):
    doc = inspect.getdoc(ESTIMATORS[name]) or ""
    claim = re.search(r"^Bias: (.*)$", doc, re.M)
    assert claim and claim[1].startswith("none") == (CLAIMS[name].smoothing is not None)
    for section in SECTIONS:
        assert re.search(rf"^{section}\b.*:", doc, re.M), section


@pytest.mark.parametrize("name", CLAIMS)
def test_every_option_is_described(name):
    for option in inspect.signature(ESTIMATORS[name]).parameters:
        assert f"  {option}: " in (ESTIMATORS[name].__doc__ or ""), option


@pytest.mark.parametrize(
    "name", [n for n in CLAIMS if "sigma" in inspect.signature(ESTIMATORS[n]).parameters]
)
@pytest.mark.parametrize("sigma", [0.0, -0.1])
def test_a_sigma_that_is_not_positive_is_refused(name, sigma):
    with pytest.raises(ValueError, match=rf"^sigma must be > 0, got {sigma}$"):
        build(ESTIMATORS[name], toys.product().system, sigma=sigma, truncation_length=2)
