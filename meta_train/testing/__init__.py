"""The conformance suite of outer-gradient estimators: certify your own with `check_estimator`."""

from meta_train.testing.conformance import check_estimator

__all__ = ["check_estimator"]
