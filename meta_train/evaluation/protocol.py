"""What an evaluation measures: horizons, seeds, rivals."""

import dataclasses
from typing import Annotated

from annotated_types import Ge, Interval, MinLen

from meta_train.errors import nearest
from meta_train.evaluation.baselines import BASELINES, SCHEDULES

ADAM = "adam"  # constant rate: what step speed-ups are measured against
ADAMS = (ADAM, "adam_cosine")
UNTUNED = ("adam@0.001", "adamw_cosine@0.001", "muon_cosine@0.01", "prodigy@1")
STANDARD = (
    *ADAMS,
    *(f"{name}_warmup_cosine" for name in ("adamw", "sgdm", "nadamw", "lion", "muon", "soap")),
    *UNTUNED,
)
MORE = (
    *(f"{name}_warmup_cosine" for name in ("ademamix", "adopt", "cautious_adamw")),
    *("schedule_free_warmup", "schedule_free_sgd_warmup", "prodigy_cosine", "dowg"),
)
GROUPS = {"standard": STANDARD, "untuned": UNTUNED, "all": (*STANDARD, *MORE)}
ARCHIVE_STEPS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What an evaluation measures.

    Args:
      horizons: lengths of the inner trainings that are compared, in steps, ascending.
      num_seeds: seeds that losses are read on. A seed is a task of the family, an
        initialisation and a sequence of minibatches, the same for all optimizers.
      num_tuning_seeds: other seeds, which every setting is chosen on.
      rivals: hand-designed optimizers to compare with, see `parse_rival`: each tuned over its own grid
        (`meta_train.evaluation.baselines`), or untuned where its rate is given. "standard", "untuned" and
        "all" stand for several. "adam" is always among them.
      rates: learning rates that a rival is tuned over, at most; fewer than 12 are spread over the grid.
      tune_decay: whether a rival's other hyperparameters (weight decay, the rate of Muon's Adam) are tuned as
        well: every combination with every rate.
      trials: factors on the learned optimizer's step that the comparison at equal tuning budget chooses from,
        powers of two with 1 among them. 1 leaves that comparison out.
      archive_steps: length of the Adam trainings that the speed-up is measured against. No speed-up above
        archive_steps / horizon can be seen. 0 for 2000, or four times the longest horizon if that is more.
      smoothing: decay of the moving average of the losses that the speed-up compares.
      final_steps: the final loss is the mean of the training loss over so many last steps.
      readings: validation losses read in a training, at equal distances; the best so far is the least of
        them.
      num_valid_batches: minibatches of the "valid" split that a validation loss averages; 0 for none. As many
        of the "test" split, where there is one.
      seed: another one gives other seeds throughout.

    Raises:
      ValueError: settings that contradict each other.
    """

    horizons: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (200, 500)
    num_seeds: Annotated[int, Ge(1)] = 3
    num_tuning_seeds: Annotated[int, Ge(1)] = 3
    rivals: tuple[str, ...] = STANDARD
    rates: Annotated[int, Ge(1)] = 12
    tune_decay: bool = True
    trials: Annotated[int, Ge(1)] = 12
    archive_steps: Annotated[int, Ge(0)] = 0
    smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    final_steps: Annotated[int, Ge(1)] = 20
    readings: Annotated[int, Ge(1)] = 5
    num_valid_batches: Annotated[int, Ge(0)] = 8
    seed: int = 0

    def __post_init__(self):
        set_ = object.__setattr__
        named = [name for rival in self.rivals for name in GROUPS.get(rival, (rival,))]
        set_(self, "horizons", tuple(self.horizons))
        set_(self, "rivals", tuple(dict.fromkeys((ADAM, *named))))
        if not self.horizons or self.horizons[0] <= 0 or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError(f"horizons must be positive, ascending and distinct, got {self.horizons}")
        for name in ("num_seeds", "num_tuning_seeds", "rates", "trials", "final_steps", "readings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.num_valid_batches < 0:
            raise ValueError(f"num_valid_batches must be >= 0, got {self.num_valid_batches}")
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"smoothing must be in [0, 1), got {self.smoothing}")
        if self.horizons[0] < self.final_steps:
            raise ValueError(f"horizons must be >= final_steps ({self.final_steps}), got {self.horizons[0]}")
        if not self.archive_steps:
            set_(self, "archive_steps", max(ARCHIVE_STEPS, 4 * self.horizons[-1]))
        if self.archive_steps < self.horizons[-1]:
            raise ValueError(
                f"archive_steps must be >= every horizon ({self.horizons[-1]}), got {self.archive_steps}"
            )
        for rival in self.rivals:
            parse_rival(rival)


def parse_rival(text: str) -> tuple[str, str, float | None]:
    """Name, schedule and learning rate (None for none) of "NAME", "NAME_SCHEDULE", either with "@RATE".

    Raises:
      ValueError: no such optimizer (the message names the nearest), schedule or rate.
    """
    whole, at, rate = text.partition("@")
    if at:
        try:
            learning_rate = float(rate)
        except ValueError:
            raise ValueError(f"the learning rate must be a number, got {rate!r}") from None
        if not 0 < learning_rate < float("inf"):
            raise ValueError(f"the learning rate must be > 0 and finite, got {rate}")
    for schedule in SCHEDULES:
        name = whole if schedule == "constant" else whole.removesuffix(f"_{schedule}")
        if name in BASELINES and (name != whole or schedule == "constant"):
            if schedule not in BASELINES[name].schedules:
                raise ValueError(
                    f"{name} takes no {schedule} schedule, only {', '.join(BASELINES[name].schedules)}"
                )
            return name, schedule, learning_rate if at else None
    raise ValueError(
        f"unknown optimizer {whole!r} of optax; {nearest(whole, [*BASELINES, *GROUPS])}; each with "
        f"{', '.join('_' + s for s in SCHEDULES[1:])} or nothing behind it, and @RATE or nothing behind that"
    )
