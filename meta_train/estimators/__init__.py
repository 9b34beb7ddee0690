"""Outer-gradient estimators, all in the literal dict `ESTIMATORS`, with what is claimed of their means."""

from typing import Literal, NamedTuple

from meta_train.core.estimator import Estimate, GradientEstimator, OneParticle, from_particle, summarise
from meta_train.estimators.artbp import artbp
from meta_train.estimators.dodge import dodge
from meta_train.estimators.gpes import full_es, gpes, nres, pes
from meta_train.estimators.guided_es import guided_es
from meta_train.estimators.implicit import implicit
from meta_train.estimators.pes_analytic import pes_analytic, pes_reparam
from meta_train.estimators.reparam import metz2019, reparam
from meta_train.estimators.rtrl import rtrl
from meta_train.estimators.tbptt import bptt, tbptt
from meta_train.estimators.truncated_es import truncated_es
from meta_train.estimators.uoro import uoro

ESTIMATORS = {
    "artbp": artbp,
    "bptt": bptt,
    "dodge": dodge,
    "full_es": full_es,
    "gpes": gpes,
    "guided_es": guided_es,
    "implicit": implicit,
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


class Claim(NamedTuple):
    """What the mean of an estimator is claimed to be, for the tests and the tables."""

    # the mean is the gradient smoothed by noise new in every "window", by one noise for the whole "episode",
    # or the true gradient ("none"); None: it is biased by truncation
    smoothing: Literal["window", "episode", "none"] | None
    # the smoothing of a single window of a whole inner problem; None: as `smoothing`
    one_window: Literal["window", "episode", "none"] | None = None
    # checks of `meta_train.testing.UNBIASED` that it fails as it smooths otherwise there
    mixed: tuple[str, ...] = ()


# An estimator without an entry here claims nothing of its mean: it passes the tests of the outer loop alone.
CLAIMS = {
    "artbp": Claim("none"),
    "bptt": Claim("none"),
    "dodge": Claim("none"),
    "full_es": Claim("episode"),
    "gpes": Claim("episode"),
    "guided_es": Claim("window"),
    "metz2019": Claim(None, "episode"),
    "nres": Claim("episode"),
    "pes": Claim("window"),
    "pes_analytic": Claim("window", "none", ("unbiased: product",)),
    "pes_reparam": Claim("window"),
    "reparam": Claim(None, "episode"),
    "rtrl": Claim("none"),
    "tbptt": Claim(None, "none"),
    "truncated_es": Claim(None, "episode"),
    "uoro": Claim("none"),
}

__all__ = [
    "CLAIMS",
    "ESTIMATORS",
    "Claim",
    "Estimate",
    "GradientEstimator",
    "OneParticle",
    "from_particle",
    "summarise",
]
