"""What an evaluation measures: horizons, seeds, rivals."""

import dataclasses
from typing import Annotated

from annotated_types import Ge, Interval, MinLen

from meta_train.evaluation.baselines import BASELINES, SCHEDULES

ADAM = "adam"  # constant rate: what step speed-ups are measured against
ADAMS = (ADAM, "adam_cosine")
STANDARD = (*ADAMS, *(f"{name}_warmup_cosine" for name in ("adamw", "sgdm", "nadamw", "lion", "muon")))
ARCHIVE_STEPS = 2000


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What an evaluation measures.

    Args:
      horizons: lengths of the inner trainings that are compared, in steps, ascending.
      num_seeds: seeds that losses are read on. A seed is a task of the family, an
        initialisation and a sequence of minibatches, the same for all optimizers.
      num_tuning_seeds: other seeds, which every setting is chosen on.
      rivals: optimizers of optax to compare with: NAME (constant learning rate) or NAME_SCHEDULE, each tuned
        over its own grid of learning rates (`meta_train.evaluation.baselines`). "adam" is always among them.
      trials: factors on the learned optimizer's step that the comparison at equal tuning budget chooses from,
        powers of two with 1 among them. 1 leaves that comparison out.
      archive_steps: length of the Adam trainings that the speed-up is measured against. No speed-up above
        archive_steps / horizon can be seen. 0 for 2000, or four times the longest horizon if that is more.
      smoothing: decay of the moving average of the losses that the speed-up compares.
      final_steps: the final loss is the mean of the training loss over so many last steps.
      num_valid_batches: minibatches of the "valid" split that the validation loss averages; 0 for none.
      seed: another one gives other seeds throughout.

    Raises:
      ValueError: settings that contradict each other.
    """

    horizons: Annotated[tuple[Annotated[int, Ge(1)], ...], MinLen(1)] = (200, 500)
    num_seeds: Annotated[int, Ge(1)] = 3
    num_tuning_seeds: Annotated[int, Ge(1)] = 3
    rivals: tuple[str, ...] = STANDARD
    trials: Annotated[int, Ge(1)] = 12
    archive_steps: Annotated[int, Ge(0)] = 0
    smoothing: Annotated[float, Interval(ge=0, lt=1)] = 0.95
    final_steps: Annotated[int, Ge(1)] = 20
    num_valid_batches: Annotated[int, Ge(0)] = 8
    seed: int = 0

    def __post_init__(self):
        set_ = object.__setattr__
        set_(self, "horizons", tuple(self.horizons))
        set_(self, "rivals", tuple(dict.fromkeys((ADAM, *self.rivals))))
        if not self.horizons or self.horizons[0] <= 0 or list(self.horizons) != sorted(set(self.horizons)):
            raise ValueError(f"horizons must be positive, ascending and distinct, got {self.horizons}")
        for name in ("num_seeds", "num_tuning_seeds", "trials", "final_steps"):
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


def parse_rival(text: str) -> tuple[str, str]:
    """Name and schedule of "NAME" or "NAME_SCHEDULE".

    Raises:
      ValueError: neither; the message names the nearest.
    """
    for schedule in SCHEDULES:
        name = text if schedule == "constant" else text.removesuffix(f"_{schedule}")
        if name in BASELINES and (name != text or schedule == "constant"):
            if schedule not in BASELINES[name].schedules:
                raise ValueError(
                    f"{name} takes no {schedule} schedule, only {', '.join(BASELINES[name].schedules)}"
                )
            return name, schedule
    from meta_train.errors import nearest

    raise ValueError(
        f"unknown optimizer {text!r} of optax; {nearest(text, BASELINES)}; each with "
        f"{', '.join('_' + s for s in SCHEDULES[1:])} or nothing behind it"
    )
