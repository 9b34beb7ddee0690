"""Outer-gradient estimators: one a file, all in the literal dict `ESTIMATORS`."""

from meta_train.estimators.base import Estimate, GradientEstimator, OneParticle, from_particle, summarise
from meta_train.estimators.full_es import full_es
from meta_train.estimators.gpes import gpes
from meta_train.estimators.nres import nres
from meta_train.estimators.pes import pes
from meta_train.estimators.tbptt import tbptt
from meta_train.estimators.truncated_es import truncated_es

ESTIMATORS = {
    "full_es": full_es,
    "gpes": gpes,
    "nres": nres,
    "pes": pes,
    "tbptt": tbptt,
    "truncated_es": truncated_es,
}

__all__ = ["ESTIMATORS", "Estimate", "GradientEstimator", "OneParticle", "from_particle", "summarise"]
