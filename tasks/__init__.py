"""Inner problems for meta-training: task families, the data they use, and frozen evaluation rings."""

from collections.abc import Callable, Mapping
from typing import Any

from tasks.base import Task, TaskFamily, fixed
from tasks.check import check_family
from tasks.image_mlp import image_mlp
from tasks.quadratic import quadratic
from tasks.teacher_mlp import teacher_mlp

TASKS: dict[str, Callable[..., TaskFamily]] = {
    "image_mlp": image_mlp,
    "quadratic": quadratic,
    "teacher_mlp": teacher_mlp,
}


def make(spec: Mapping[str, Any]) -> TaskFamily:
    """The family of a spec, {"name": a key of TASKS, option: value, ...}.

    Checks no types: that is the work of whoever reads specs from files.
    """
    options = dict(spec)
    return TASKS[options.pop("name")](**options)


__all__ = ["TASKS", "Task", "TaskFamily", "check_family", "fixed", "make"]
