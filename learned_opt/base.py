"""What a learned optimizer is: meta-parameters, and the optimizer that they define."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import optax

Theta = Any
Params = Any


class LearnedOptimizer(NamedTuple):
    """A family of optimizers indexed by meta-parameters `theta`.

    Attributes:
      init: `(key) -> theta`; the key is consumed. `theta` is a pytree of float arrays.
      build: `(theta, num_steps) -> optax.GradientTransformationExtraArgs`. `num_steps` (int or
        i32[], may be traced; None where `needs` does not name it) is the length T of the inner
        training. `update` returns updates to be *added* to the parameters, in their dtype, as optax's do.
      needs: what `build` and `update` cannot do without, a subset of {"num_steps", "value"}:
        the horizon, and the training loss (passed to `update` by optax's extra-args
        convention, `value=loss`).
      trained: the keys of theta that meta-training moves, all else being frozen; () for all.
    """

    init: Callable[[jax.Array], Theta]
    build: Callable[[Theta, Any], optax.GradientTransformationExtraArgs]
    needs: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()
