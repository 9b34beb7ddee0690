"""What an evaluation finds."""

from typing import NamedTuple

import numpy as np

from meta_train.evaluation.protocol import Settings
from meta_train.evaluation.scores import Profile, Score
from meta_train.evaluation.target import Target
from tasks.base import TaskFamily

LEARNED = "learned"  # the optimizer under test, in the dicts of a cell
ALL = "all"


class HeldOut(NamedTuple):
    """A task to evaluate on, and the ring that it belongs to ("" for none)."""

    family: TaskFamily
    ring: str = ""


class Outcome(NamedTuple):
    """A cell in one comparison.

    Attributes:
      speed_up: steps that Adam needs to reach the optimizer's final loss, over the horizon.
      censored: whether Adam never got there: `speed_up` is then a lower bound.
      wall_clock_speed_up: the same in wall time, gradients included.
      loss_ratio: rival -> final training loss over the rival's; "best" is the best of the rivals,
        "best_untuned" the best of those without any tuning.
      valid_ratio: the same of the validation loss, every setting chosen by validation loss. NaN for none.
      best_valid_ratio: the same of the least validation loss so far.
      test_ratio: the same of the test loss, every setting chosen by validation loss. NaN for none.
      to_target: rival -> how many times faster the optimizer reaches the rival's final loss, see `target`.
      wall_clock_to_target: the same by the clock, of rivals whose steps were timed.
      target_steps: rival -> the steps that takes, and those until it is significant.
      setting: of the optimizer: factor on its step, or learning rate.
      rival_setting: learning rate of each rival.
      rival_hyper: its other hyperparameters.
    """

    speed_up: float
    censored: bool
    wall_clock_speed_up: float
    loss_ratio: dict[str, float]
    valid_ratio: dict[str, float]
    best_valid_ratio: dict[str, float]
    test_ratio: dict[str, float]
    to_target: dict[str, float]
    wall_clock_to_target: dict[str, float]
    target_steps: dict[str, Target]
    setting: float
    rival_setting: dict[str, float]
    rival_hyper: dict[str, dict[str, float]]


class Cell(NamedTuple):
    """One task at one horizon. Dicts by optimizer have "learned", the one under test, and each rival.

    Attributes:
      task: its label.
      ring: that it belongs to, "" for none.
      horizon: steps of the inner training.
      diverged: seeds on which the optimizer under test met a loss that is not finite.
      best: the best of the tuned rivals, by training loss.
      best_valid: the same by validation loss.
      loss: f64[S], mean training loss of the last steps; rivals tuned for task and horizon; +inf: diverged.
      valid: f64[S], validation loss at the end, tuned by validation loss; NaN without a "valid" split.
      least_valid: f64[S], the least validation loss so far.
      test: f64[S], test loss at the end.
      train: f32[S, horizon], the training losses.
      at_grid_edge: tuned rival -> whether the chosen learning rate is the first or the last of those tried.
      wrong_horizon: told horizon over the right one -> final loss over that when told right.
      outcomes: comparison -> its result.
    """

    task: str
    ring: str
    horizon: int
    diverged: int
    best: str
    best_valid: str
    loss: dict[str, np.ndarray]
    valid: dict[str, np.ndarray]
    least_valid: dict[str, np.ndarray]
    test: dict[str, np.ndarray]
    train: dict[str, np.ndarray]
    at_grid_edge: dict[str, bool]
    wrong_horizon: dict[float, float]
    outcomes: dict[str, Outcome]


class Evaluation(NamedTuple):
    """What `evaluate` found.

    Attributes:
      settings: what it was asked.
      cells: one per task and horizon, task by task.
      scores: group -> comparison -> metric -> score. Groups: "all", "ring A", "200 steps", ...
      profiles: comparison -> performance profile of the step speed-ups.
      wrong_horizon: told horizon over the right one -> geometric mean of the loss over that when told right.
      divergence_rate: share of the optimizer's trainings that diverged.
      ms_per_step: task -> {"learned", "adam", the best rivals} -> milliseconds of a step of one training,
        gradient included.
      state_bytes_per_parameter: optimizer -> bytes of its state for each parameter, mean over the tasks.
      single_setting: what the single settings of the second comparison are: optimizer -> learning rate.
      seconds: wall time of the evaluation, compilation included.
      cpu_seconds: processor time.
      environment: versions and device.
    """

    settings: Settings
    cells: tuple[Cell, ...]
    scores: dict[str, dict[str, dict[str, Score]]]
    profiles: dict[str, Profile]
    wrong_horizon: dict[float, float]
    divergence_rate: float
    ms_per_step: dict[str, dict[str, float]]
    state_bytes_per_parameter: dict[str, float]
    single_setting: dict[str, float]
    seconds: float
    cpu_seconds: float
    environment: dict[str, str]
