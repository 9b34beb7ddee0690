"""Inner problems for meta-training: task families, the data they use, and frozen evaluation rings."""

import inspect
from collections.abc import Callable, Mapping
from importlib import metadata
from typing import Any

from tasks.augment import AUGMENTATIONS, augment
from tasks.base import Task, TaskFamily, fixed
from tasks.check import check_family
from tasks.families.char_rnn import char_rnn
from tasks.families.classic_function import classic_function
from tasks.families.deep_linear import deep_linear
from tasks.families.gaussian_mixture import gaussian_mixture
from tasks.families.gaussian_process import gaussian_process
from tasks.families.image_autoencoder import image_autoencoder
from tasks.families.image_contrastive import image_contrastive
from tasks.families.image_conv import image_conv
from tasks.families.image_denoiser import image_denoiser
from tasks.families.image_field import image_field
from tasks.families.image_mixer import image_mixer
from tasks.families.image_mlp import image_mlp
from tasks.families.image_resnet import image_resnet
from tasks.families.image_vae import image_vae
from tasks.families.image_vit import image_vit
from tasks.families.logistic_regression import logistic_regression
from tasks.families.matrix_factorization import matrix_factorization
from tasks.families.memory_rnn import memory_rnn
from tasks.families.mlp_lm import mlp_lm
from tasks.families.normalizing_flow import normalizing_flow
from tasks.families.optimizer_in_loop import optimizer_in_loop
from tasks.families.pendulum_policy import pendulum_policy
from tasks.families.physics_informed import physics_informed
from tasks.families.quadratic import quadratic
from tasks.families.skip_gram import skip_gram
from tasks.families.sparse_regression import sparse_regression
from tasks.families.tabular_mlp import tabular_mlp
from tasks.families.teacher_mlp import teacher_mlp
from tasks.families.transformer_lm import transformer_lm
from tasks.families.variational_regression import variational_regression
from tasks.named import NAMED, canonical, expand

try:
    __version__ = metadata.version("learned-opt")  # the packages are versioned together
except metadata.PackageNotFoundError:  # imported from a source tree that is not installed
    __version__ = "unknown"

TASKS: dict[str, Callable[..., TaskFamily]] = {
    "char_rnn": char_rnn,
    "classic_function": classic_function,
    "deep_linear": deep_linear,
    "gaussian_mixture": gaussian_mixture,
    "gaussian_process": gaussian_process,
    "image_autoencoder": image_autoencoder,
    "image_contrastive": image_contrastive,
    "image_conv": image_conv,
    "image_denoiser": image_denoiser,
    "image_field": image_field,
    "image_mixer": image_mixer,
    "image_mlp": image_mlp,
    "image_resnet": image_resnet,
    "image_vae": image_vae,
    "image_vit": image_vit,
    "logistic_regression": logistic_regression,
    "matrix_factorization": matrix_factorization,
    "memory_rnn": memory_rnn,
    "mlp_lm": mlp_lm,
    "normalizing_flow": normalizing_flow,
    "optimizer_in_loop": optimizer_in_loop,
    "pendulum_policy": pendulum_policy,
    "physics_informed": physics_informed,
    "quadratic": quadratic,
    "skip_gram": skip_gram,
    "sparse_regression": sparse_regression,
    "tabular_mlp": tabular_mlp,
    "teacher_mlp": teacher_mlp,
    "transformer_lm": transformer_lm,
    "variational_regression": variational_regression,
}


def make(spec: Mapping[str, Any]) -> TaskFamily:
    """The family of a spec, {"name": a key of TASKS or NAMED, option: value, ..., "augment": [specs]}.

    "augment" is optional, a list of {"name": a key of AUGMENTATIONS, option: value, ...} applied in
    order. So is "test": options, of the data in particular, that make another family of the same structure;
    its training data become the split "test". Checks no types: that is the work of whoever reads specs from
    files.
    """
    options = expand(spec)
    augmentations, test = options.pop("augment", ()), options.pop("test", None)
    factory = TASKS[options.pop("name")]
    family = factory(**options)
    if test is not None:
        data = factory(**{**options, **test}).data["train"]
        family = family._replace(data={**family.data, "test": data})
    return augment(family, augmentations)


def name_of(spec: Mapping[str, Any], default: str) -> str:
    """The named task that an expanded spec is, defaults spelt out or not; the default if it is none.

    The keys that are no options of its family, such as its weight and label in a config, do not count.
    """

    def full(spec):
        options = inspect.signature(TASKS[spec["name"]]).parameters
        found = {key: spec.get(key, option.default) for key, option in options.items()}
        return canonical(found | {"name": spec["name"], "augment": spec.get("augment") or ()})

    if spec["name"] not in TASKS:
        return default
    same = [
        name for name, named in NAMED.items() if named["name"] == spec["name"] and full(named) == full(spec)
    ]
    return same[0] if same else default


__all__ = [
    "AUGMENTATIONS",
    "NAMED",
    "TASKS",
    "Task",
    "TaskFamily",
    "augment",
    "check_family",
    "expand",
    "fixed",
    "make",
    "name_of",
]
