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
    """A cell in one comparison."""

    speed_up: float  # steps that Adam needs to reach the optimizer's final loss, over the horizon
    censored: bool  # whether Adam never got there: `speed_up` is then a lower bound
    wall_clock_speed_up: float  # the same in wall time, gradients included
    # rival -> final training loss over the rival's; "best" is the best of the rivals, "best_untuned" the best
    # of those without any tuning
    loss_ratio: dict[str, float]
    # the same of the validation loss, every setting chosen by validation loss. NaN for none
    valid_ratio: dict[str, float]
    best_valid_ratio: dict[str, float]  # the same of the least validation loss so far
    # the same of the test loss, every setting chosen by validation loss. NaN for none
    test_ratio: dict[str, float]
    # rival -> how many times faster the optimizer reaches the rival's final loss, see `target`
    to_target: dict[str, float]
    wall_clock_to_target: dict[str, float]  # the same by the clock, of rivals whose steps were timed
    target_steps: dict[str, Target]  # rival -> the steps that takes, and those until it is significant
    setting: float  # of the optimizer: factor on its step, or learning rate
    rival_setting: dict[str, float]  # learning rate of each rival
    rival_hyper: dict[str, dict[str, float]]  # its other hyperparameters


class Cell(NamedTuple):
    """One task at one horizon. Dicts by optimizer have "learned", the one under test, and each rival."""

    task: str  # its label
    ring: str  # that it belongs to, "" for none
    horizon: int  # steps of the inner training
    diverged: int  # seeds on which the optimizer under test met a loss that is not finite
    best: str  # the best of the tuned rivals, by training loss
    best_valid: str  # the same by validation loss
    # f64[S], mean training loss of the last steps; rivals tuned for task and horizon; +inf: diverged
    loss: dict[str, np.ndarray]
    # f64[S], validation loss at the end, tuned by validation loss; NaN without a "valid" split
    valid: dict[str, np.ndarray]
    least_valid: dict[str, np.ndarray]  # f64[S], the least validation loss so far
    test: dict[str, np.ndarray]  # f64[S], test loss at the end
    train: dict[str, np.ndarray]  # f32[S, horizon], the training losses
    # tuned rival -> whether the chosen learning rate is the first or the last of those tried
    at_grid_edge: dict[str, bool]
    # given horizon over the right one -> final loss over that when given the right one
    wrong_horizon: dict[float, float]
    outcomes: dict[str, Outcome]  # comparison -> its result


class Evaluation(NamedTuple):
    """What `evaluate` found."""

    settings: Settings  # what it was asked
    cells: tuple[Cell, ...]  # one per task and horizon, task by task
    # group -> comparison -> metric -> score. Groups: "all", "ring A", "200 steps", ...
    scores: dict[str, dict[str, dict[str, Score]]]
    profiles: dict[str, Profile]  # comparison -> performance profile of the step speed-ups
    # given horizon over the right one -> geometric mean of the loss over that when given the right one
    wrong_horizon: dict[float, float]
    divergence_rate: float  # share of the optimizer's trainings that diverged
    # task -> {"learned", "adam", the best rivals} -> milliseconds of a step of one training, gradient
    # included
    ms_per_step: dict[str, dict[str, float]]
    # optimizer -> bytes of its state for each parameter, mean over the tasks
    state_bytes_per_parameter: dict[str, float]
    # what the single settings of the second comparison are: optimizer -> learning rate
    single_setting: dict[str, float]
    seconds: float  # wall time of the evaluation, compilation included
    cpu_seconds: float  # processor time
    environment: dict[str, str]  # versions and device
