"""What outer training needs of a system that is not an inner training: the system, a theta, its data."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from meta_train.core.system import UnrolledSystem


class OuterProblem(NamedTuple):
    """A system, where its meta-parameters begin, and what its steps read.

    Attributes:
      system: what is unrolled.
      init_theta: `(key) -> theta`; the key is consumed.
      data: passed on to `system.step`, () for a system without data.
    """

    system: UnrolledSystem
    init_theta: Callable[[jax.Array], Any]
    data: Any = ()
