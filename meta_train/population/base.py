"""What a population consists of: trainers, which know weights, and controllers, which see numbers alone.

Glossary: a *member* (slot) is one row of the population's arrays; a *round* is what all members train
between two decisions of the controller; *fitness* is what is maximised; *hypers* are the hyperparameters'
values, name -> one number per member.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from meta_train.population.space import Hypers, Space

if TYPE_CHECKING:
    from meta_train.core.stream import Stream  # controllers, which see numbers alone, do without


class Member(NamedTuple):
    """State of one trainer, in the three parts that can be copied apart.

    Attributes:
      weights: what is trained.
      opt_state: of the optimizer that trains it; () if it has none.
      inner: everything else that goes on from step to step; () if nothing does.
    """

    weights: Any
    opt_state: Any = ()
    inner: Any = ()


class Trainer(NamedTuple):
    """Anything that can be trained in a population: pure, unbatched functions.

    Attributes:
      init: `(key, hypers) -> Member`; the key is consumed, `hypers` maps names to f32[] (i32[] for integers).
      step: `(member, hypers, key, data) -> member`, one step of training; the key is consumed.
      score: `(member, data) -> f32[]`, the fitness: higher is better; same random numbers for all members.
      data: device arrays that `step` and `score` are given.
      hypers: the hyperparameters that it takes; all of them are required by `step`, unless it has a default.
      static: options that change shapes or the program, and so can never differ between members.
      required: those of `hypers` without a default.
      restart: `(inner) -> inner`, for a member that got new weights but keeps its own inner part.
      test: `(member, data) -> {name: f32[]}`, for reports only; nothing is ever selected by it.
      least: the least value that a hyperparameter may take, for those that have one.
      streams: label -> stream of the arrays `data["train"][label]["train"]`, refreshed between rounds.
      particles: which parts of a member are one row per particle (bools, a prefix of its tree).
      split: `(devices) -> Trainer`, the same with the particles of each member over the devices of the mesh
        axis "particles": its `step` and `score` see those of one device. None: it has no particles.
    """

    init: Callable[[jax.Array, Any], Member]
    step: Callable[[Member, Any, jax.Array, Any], Member]
    score: Callable[[Member, Any], jax.Array]
    data: Any = ()
    hypers: tuple[str, ...] = ()
    static: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    restart: Callable[[Any], Any] = lambda inner: inner
    test: Callable[[Member, Any], dict[str, jax.Array]] = lambda member, data: {}
    least: dict[str, float] = {}
    streams: "dict[str, Stream]" = {}
    particles: Member = Member(False, False, False)
    split: "Callable[[int], Trainer] | None" = None


class Rhythm(NamedTuple):
    """When things happen.

    Attributes:
      round_steps: steps of training between two decisions, "ready" in the papers.
      eval_every: steps between evaluations; divides `round_steps`.
      average: last evaluations of a round whose mean is its fitness.
    """

    round_steps: int
    eval_every: int
    average: int = 3

    @property
    def evaluations(self) -> int:
        """Evaluations in a round."""
        return self.round_steps // self.eval_every


class Setting(NamedTuple):
    """What controllers are made for.

    Attributes:
      space: the hyperparameters.
      rhythm: when things happen.
      copy_hypers: whether a member that is overwritten gets its source's hypers (then explored), too.
    """

    space: Space
    rhythm: Rhythm
    copy_hypers: bool = True


class Outcome(NamedTuple):
    """What a controller sees after a round of M members.

    Attributes:
      step: steps that every member has trained.
      scores: f64[M, E], evaluations of this round in order.
      fitness: f64[M], the mean of the last of them; -inf where one of the round's is not finite.
      hypers: of this round.
    """

    step: int
    scores: np.ndarray
    fitness: np.ndarray
    hypers: Hypers


class Decision(NamedTuple):
    """What happens before the next round.

    Attributes:
      source: i64[M], the member whose state each member goes on with; itself for most.
      hypers: of the next round.
      events: what happened, for the lineage: dicts with at least "event" and "slot".
    """

    source: np.ndarray
    hypers: Hypers
    events: list[dict[str, Any]]


class Controller(NamedTuple):
    """Decides between rounds; pure, on the host, and never sees a weight.

    Attributes:
      groups: label -> the members of a sub-population, for reports; all members are in one.
      ranked: i64[], the members that can be the population's best (all but evaluators).
      init: `(rng) -> (state, Decision)`; the state is made of what JSON can hold.
      step: `(state, Outcome, rng) -> (state, Decision)`; the state given is not modified.
    """

    groups: dict[str, list[int]]
    ranked: np.ndarray
    init: Callable[[np.random.Generator], tuple[dict, Decision]]
    step: Callable[[dict, Outcome, np.random.Generator], tuple[dict, Decision]]

    @property
    def num_members(self) -> int:
        """M."""
        return sum(map(len, self.groups.values()))
