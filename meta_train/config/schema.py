"""The keys of a config file, their types, ranges and defaults, each documented where it stands.

Options of tasks, learned optimizers, estimators and outer optimizers have no schema here: it is
their factories' signatures.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, Interval, MaxLen, MinLen
from pydantic import field_validator, model_validator

from meta_train.config.bounds import MOST
from meta_train.config.logger_options import TensorBoard, Trackio, WandB
from meta_train.config.registry import Checked, Component, OneOf, Registry, Spec
from meta_train.config.section import Count, Devices, Section, Seed, Size


def optax_optimizers(context: Any) -> Registry:
    """The registry of outer optimizers; importing it imports optax."""
    from meta_train.config.outer_optimizer import optimizers

    del context
    return optimizers()


class StreamOptions(Section):
    """A buffer on the device for data that do not fit there; see `meta_train.core.stream`."""

    rows: Size
    """Rows of each data set on the device, of "train" and of "valid"."""
    chunk: Size | None = None
    """Rows of each that a refresh replaces; divides `rows`; null for an eighth."""
    every: Count = 10
    """Outer steps between refreshes."""
    timeout: Annotated[float, Gt(0)] = 60.0
    """Seconds that a refresh may take before the run stops."""


class Task(Component):
    """A task family: its `name` and options."""

    label: str = ""
    """Name in the tables; "" for that of the named task or of the family."""
    augment: Annotated[tuple[Annotated[Spec, OneOf(lambda known: known.augmentations)], ...], MaxLen(20)] = ()
    """Augmentations, names and options, applied in order: `meta-train list augmentations`."""

    @property
    def spec(self) -> Checked:
        """`{"name": NAME, **options, "label": ..., "augment": [...]}`, for `experiment.build_family`."""
        own = {"label": self.label, "augment": self.augment}
        return Checked(super().spec | {key: value for key, value in own.items() if value})


class TrainingTask(Task):
    """One family of the training mixture: `name` and options of a task family."""

    weight: Annotated[float, Gt(0)] = 1.0
    """Share of the family's gradient, relative to the other families'."""
    label: str = ""
    """Name in the metrics; "" for the family's own, numbered where it occurs twice (filled in by loading)."""
    stream: StreamOptions | None = None
    """Keeps the data on the host and a buffer on the device, refreshed between outer steps; null for all of
    the data on the device."""

    @property
    def spec(self) -> Checked:
        """`{"name": NAME, **options, "augment": [...]}`: the label is the run's own."""
        return Checked({key: value for key, value in super().spec.items() if key != "label"})


def _tasks(known: Any) -> Registry:
    return known.tasks


AnyTask = Annotated[Spec, OneOf(_tasks, Task)]


class RotationOptions(Section):
    """Some of the `tasks` at a time, with a program each: for more than one program should hold."""

    active: Count
    """Families that are active at a time, drawn with their `weight` as probability."""
    every: Count
    """Outer steps after which others are drawn; new ones begin with fresh particles."""


class OuterOptimizer(Component):
    """`name` and options of an optax optimizer, with a `learning_rate` and a `clip_norm`."""

    name: str = "adam"
    """Name in optax or optax.contrib."""
    ema: Annotated[float, Interval(ge=0, lt=1)] = 0.0
    """Decay of theta's moving average over outer steps, which is evaluated and exported; 0 for none."""


class Lengths(Section):
    """Random lengths: log-uniform among the multiples of `truncation_length` in [min, max]."""

    min: Size
    """Shortest inner problem; rounded up to a multiple of `truncation_length`."""
    max: Size
    """Longest inner problem; rounded down to a multiple of `truncation_length`."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.min > self.max:
            raise ValueError(f"min must be <= max ({self.max}), got {self.min}")
        return self


class Objective(Section):
    """What of an inner training is minimised."""

    loss: Literal["train", "valid"] = "train"
    """The minibatch loss that each step trains on, or that of the validation split after it."""
    reduce: Literal["mean", "last"] = "mean"
    """Mean over the steps of the inner training, or its last step alone."""
    log: bool = True
    """Minimise log(min(loss, cap) + offset) instead of min(loss, cap)."""
    cap: float = 4.0
    """The loss that a step counts at most, and a diverged one counts."""
    offset: Annotated[float, Ge(0)] = 0.02
    """Added before the logarithm."""
    late: Annotated[float, Ge(0)] = 0.0
    """Step t of T weighs (1 + late) (t / T)^late: 0 for all alike, 3 where the end is what matters."""
    hold_diverged: bool = False
    """All steps after one whose loss is not finite count as cap, instead of a restart at the next window."""

    @model_validator(mode="after")
    def _has_logarithm(self):
        if self.log and self.cap + self.offset <= 0:
            raise ValueError(f"cap must be > -offset ({-self.offset}) where log is true, got {self.cap}")
        for name in ("late", "hold_diverged") if self.reduce == "last" else ():
            if value := getattr(self, name):
                raise ValueError(f"{name} must be {type(value)(0)} where reduce is last, got {value}")
        return self


class Rates(Section):
    """Factors on the learning rate, log-uniform in [min, max]."""

    min: Annotated[float, Gt(0)]
    """Least factor."""
    max: Annotated[float, Gt(0)]
    """Largest factor."""

    @model_validator(mode="after")
    def _ordered(self):
        if self.min > self.max:
            raise ValueError(f"min must be <= max ({self.max}), got {self.min}")
        return self


class Inner(Section):
    """The inner training."""

    unroll_length: Size | Lengths
    """T, steps of one inner problem, a multiple of the estimator's `truncation_length`; or {min, max}."""
    objective: Objective = Objective()
    """What of it is minimised."""
    learning_rate: Rates | None = None
    """A factor on all steps of an inner problem, drawn log-uniformly for each: a user's rate that is off."""


class Selection(Section):
    """Held-out scores during the run, which pick the best checkpoint."""

    every: Count | None = None
    """Outer steps between scores; null for none: then the last checkpoint is the one to use."""
    tasks: Annotated[tuple[AnyTask, ...], MaxLen(1000)] = ()
    """Task families to score on: not those of `tasks`, and not those that `evaluation` reports."""
    horizons: Annotated[tuple[Annotated[int, Interval(ge=20, le=MOST)], ...], MinLen(1), MaxLen(100)] = (
        200,
        500,
    )
    """Inner steps to train for; the score is the loss of the last 20 of them."""
    num_seeds: Size = 3
    """Inner trainings per task and horizon."""

    @model_validator(mode="after")
    def _has_tasks(self):
        if self.every is not None and not self.tasks:
            raise ValueError("tasks must name at least one task family where every is given, got none")
        return self


class Evaluation(Section):
    """What `meta-train evaluate` compares with tuned baselines after the run."""

    tasks: Literal["held_out"] | Annotated[tuple[AnyTask, ...], MinLen(1), MaxLen(1000)] = "held_out"
    """The frozen held-out tasks, or a list of task families."""
    horizons: Annotated[tuple[Size, ...], MinLen(1), MaxLen(100)] = (200, 500)
    """Inner steps to train for."""
    num_seeds: Size = 5
    """Inner trainings per task and horizon."""


class Checkpoint(Section):
    """Saving the whole state of the run."""

    every: Count | None = 500
    """Outer steps between checkpoints; null for the last one only. Ctrl-C saves one as well."""
    max_to_keep: Count = 3
    """Older ones are deleted; the best by held-out score is kept apart."""


class Logging(Section):
    """Metrics."""

    every: Count = 10
    """Outer steps between rows of metrics.jsonl; the host reads metrics at no other time."""
    wandb: WandB = WandB()
    """Weights & Biases, in addition to metrics.jsonl."""
    tensorboard: TensorBoard = TensorBoard()
    """TensorBoard, in addition to metrics.jsonl."""
    trackio: Trackio = Trackio()
    """trackio, in addition to metrics.jsonl."""


class Mesh(Section):
    """How the work is split over devices."""

    particles: Devices = "auto"
    """Devices that the particles are split over; divides `num_particles`. `auto` takes as many as there
    are and as divide it."""
    deterministic: bool = False
    """The same gradients, bit by bit, on any number of devices; needs `runtime.particle_chunk`."""


class Runtime(Section):
    """How the run uses the machine."""

    compilation_cache: str | None = None
    """Directory of jax's persistent compilation cache, relative to the config; null for none."""
    x64: bool = False
    """Double precision."""
    particle_chunk: Size | Literal["auto"] | None = "auto"
    """Particles that a device works on at a time; divides those of one device; null for all of them. `auto`
    takes as many as a CPU's cache holds, and all of them on an accelerator."""

    @field_validator("compilation_cache")
    @classmethod
    def _has_home(cls, value):
        try:
            Path(value or "").expanduser()
        except RuntimeError:
            raise ValueError(f"is in the home directory of a user that does not exist, got {value}") from None
        return value


class RunConfig(Section):
    """A meta-training run, every default filled in."""

    seed: Seed = 0
    """All randomness of the run comes from it."""
    outer_steps: Count
    """Updates of theta."""
    tasks: Annotated[
        tuple[Annotated[TrainingTask, OneOf(_tasks, TrainingTask)], ...], MinLen(1), MaxLen(1000)
    ]
    """Families to meta-train on; their gradients are averaged."""
    rotation: RotationOptions | None = None
    """Some of them at a time; null for all of them in every outer step."""
    learned_optimizer: Annotated[Spec, OneOf(lambda known: known.learned_optimizers)]
    """What is meta-trained: its name and options."""
    init_from: str | None = None
    """An artefact of that optimizer whose theta the run begins with: a directory, relative to the config,
    `pretrained:NAME` or `hub:USER/NAME`; null for theta as its architecture initialises it."""
    inner: Inner
    """The inner training."""
    estimator: Annotated[Spec, OneOf(lambda known: known.estimators)]
    """Of the outer gradient: its name and options."""
    loss_scaling: Literal["none", "ema", "loss"] = "none"
    """`ema` divides each family's gradient by its running root mean square, so that families weigh alike;
    `loss` by its running mean loss, so that relative improvements do."""
    outer_optimizer: Annotated[OuterOptimizer, OneOf(optax_optimizers, OuterOptimizer, default="adam")]
    """What applies the outer gradient."""
    selection: Selection = Selection()
    """Held-out scores during the run, which pick the best checkpoint."""
    evaluation: Evaluation = Evaluation()
    """What `meta-train evaluate` compares with tuned baselines after the run."""
    checkpoint: Checkpoint = Checkpoint()
    """Saving the whole state of the run."""
    logging: Logging = Logging()
    """Metrics."""
    mesh: Mesh = Mesh()
    """How the work is split over devices."""
    runtime: Runtime = Runtime()
    """How the run uses the machine."""
