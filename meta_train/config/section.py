"""What every part of a config's schema is made of: a mapping with fixed keys, and sizes with bounds."""

from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import BaseModel, ConfigDict

from meta_train.config.bounds import MOST, MOST_COUNTED
from meta_train.config.registry import STRICT

Count = Annotated[int, Interval(ge=1, le=MOST_COUNTED)]
Size = Annotated[int, Interval(ge=1, le=MOST)]
Seed = Annotated[int, Interval(ge=0, lt=2**32)]
Devices = Size | Literal["auto"]


class Section(BaseModel):
    """A mapping of the config with fixed keys."""

    model_config = STRICT | ConfigDict(use_attribute_docstrings=True)
