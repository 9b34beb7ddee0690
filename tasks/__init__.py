"""Inner problems for meta-training: task families, the data they use, and frozen evaluation rings."""

from collections.abc import Callable, Mapping
from typing import Any

from tasks.augment import AUGMENTATIONS, augment
from tasks.base import Task, TaskFamily, fixed
from tasks.char_rnn import char_rnn
from tasks.check import check_family
from tasks.classic_function import classic_function
from tasks.deep_linear import deep_linear
from tasks.gaussian_mixture import gaussian_mixture
from tasks.gaussian_process import gaussian_process
from tasks.image_autoencoder import image_autoencoder
from tasks.image_contrastive import image_contrastive
from tasks.image_conv import image_conv
from tasks.image_denoiser import image_denoiser
from tasks.image_field import image_field
from tasks.image_mixer import image_mixer
from tasks.image_mlp import image_mlp
from tasks.image_resnet import image_resnet
from tasks.image_vae import image_vae
from tasks.image_vit import image_vit
from tasks.logistic_regression import logistic_regression
from tasks.matrix_factorization import matrix_factorization
from tasks.memory_rnn import memory_rnn
from tasks.mlp_lm import mlp_lm
from tasks.named import NAMED, expand
from tasks.normalizing_flow import normalizing_flow
from tasks.optimizer_in_loop import optimizer_in_loop
from tasks.pendulum_policy import pendulum_policy
from tasks.physics_informed import physics_informed
from tasks.quadratic import quadratic
from tasks.skip_gram import skip_gram
from tasks.sparse_regression import sparse_regression
from tasks.tabular_mlp import tabular_mlp
from tasks.teacher_mlp import teacher_mlp
from tasks.transformer_lm import transformer_lm
from tasks.variational_regression import variational_regression

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
    order. Checks no types: that is the work of whoever reads specs from files.
    """
    options = expand(spec)
    augmentations = options.pop("augment", ())
    return augment(TASKS[options.pop("name")](**options), augmentations)


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
]
