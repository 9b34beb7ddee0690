"""The options of the loggers, which `meta_train.run.loggers` opens."""

from typing import Literal

from meta_train.config.section import Section


class WandB(Section):
    """Weights & Biases."""

    mode: Literal["online", "offline", "disabled"] = "disabled"
    """`offline` needs no account; `online` falls back to local files without a network."""
    project: str = "learned-opt"
    """Project to log to."""
    entity: str | None = None
    """User or team; null for the account's default."""
    name: str | None = None
    """Name of the run; null for a generated one."""


class TensorBoard(Section):
    """TensorBoard, or anything that reads its event files."""

    enabled: bool = False
    """Writes event files to the subfolder `tensorboard` of the run; needs the package tensorboardX."""


class Trackio(Section):
    """trackio, a dashboard on the own machine; needs the package of that name."""

    enabled: bool = False
    """Logs to trackio's database, in TRACKIO_DIR or trackio's default folder."""
    project: str = "learned-opt"
    """Project to log to."""
    name: str | None = None
    """Name of the run; null for the name of its directory."""
    space_id: str | None = None
    """Hugging Face Space to log to, user/name; null for the database on this machine."""
