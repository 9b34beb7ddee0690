"""Outer-gradient estimators: one a file, all in the literal dict `ESTIMATORS`."""

from meta_train.core.estimator import Estimate, GradientEstimator, OneParticle, from_particle, summarise
from meta_train.estimators.artbp import artbp
from meta_train.estimators.bptt import bptt
from meta_train.estimators.dodge import dodge
from meta_train.estimators.full_es import full_es
from meta_train.estimators.gpes import gpes
from meta_train.estimators.guided_es import guided_es
from meta_train.estimators.metz2019 import metz2019
from meta_train.estimators.nres import nres
from meta_train.estimators.pes import pes
from meta_train.estimators.pes_analytic import pes_analytic
from meta_train.estimators.pes_reparam import pes_reparam
from meta_train.estimators.reparam import reparam
from meta_train.estimators.rtrl import rtrl
from meta_train.estimators.tbptt import tbptt
from meta_train.estimators.truncated_es import truncated_es
from meta_train.estimators.uoro import uoro

ESTIMATORS = {
    "artbp": artbp,
    "bptt": bptt,
    "dodge": dodge,
    "full_es": full_es,
    "gpes": gpes,
    "guided_es": guided_es,
    "metz2019": metz2019,
    "nres": nres,
    "pes": pes,
    "pes_analytic": pes_analytic,
    "pes_reparam": pes_reparam,
    "reparam": reparam,
    "rtrl": rtrl,
    "tbptt": tbptt,
    "truncated_es": truncated_es,
    "uoro": uoro,
}

__all__ = ["ESTIMATORS", "Estimate", "GradientEstimator", "OneParticle", "from_particle", "summarise"]
