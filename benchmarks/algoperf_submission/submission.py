"""A learned optimizer as a submission to AlgoPerf, in its self-tuning ruleset, on JAX.

    python3 submission_runner.py --framework=jax --workload=mnist --tuning_ruleset=self \
        --submission_path=submissions/learned_opt/submission.py ...

The five functions and their arguments are those of AlgoPerf's `spec.py`. Its runner keeps the pair that
`init_optimizer_state` returns: a state, which goes into its checkpoints, and a function, which does not.
"""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax
from algoperf import spec  # pyright: ignore[reportMissingImports] - installed where the benchmark runs
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import learned_opt

OPTIMIZER = "pretrained:general"  # or the directory of an artefact that lies next to this file
HORIZON = 0.75  # of the steps that the baseline takes in the time allowed: a training should end before
DROPOUT_RATE = 0.1

BATCH_SIZES = {  # those of the benchmark's NAdamW baseline
    "cifar": 128,
    "criteo1tb": 262_144,
    "fastmri": 32,
    "finewebedu_lm": 64,
    "imagenet_resnet": 1024,
    "imagenet_resnet_gelu": 512,
    "imagenet_resnet_silu": 512,
    "imagenet_vit": 1024,
    "librispeech_conformer": 256,
    "librispeech_deepspeech": 256,
    "mnist": 16,
    "ogbg": 512,
    "wmt": 128,
}


def get_batch_size(workload_name: str) -> int:
    """Examples in a training step, on all devices; a ValueError for a workload that is not known."""
    if workload_name not in BATCH_SIZES:
        raise ValueError(f"unknown workload {workload_name}, must be one of {', '.join(BATCH_SIZES)}")
    return BATCH_SIZES[workload_name]


def init_optimizer_state(
    workload: spec.Workload,
    model_params: spec.ParameterContainer,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    rng: spec.RandomState,
) -> spec.OptimizerState:
    """The state of the learned optimizer, on all devices, and its compiled training step."""
    del model_state, hyperparameters, rng
    tx = learned_opt.load(OPTIMIZER, num_steps=max(1, int(HORIZON * workload.step_hint)))
    state = jax.jit(tx.init, out_shardings=_over_devices())(model_params)
    return state, _training_step(workload, tx)


def update_params(
    workload: spec.Workload,
    current_param_container: spec.ParameterContainer,
    current_params_types: spec.ParameterTypeTree,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    batch: dict[str, spec.Tensor],
    loss_type: spec.LossType,
    optimizer_state: spec.OptimizerState,
    eval_results: list[tuple[int, float]],
    global_step: int,
    rng: spec.RandomState,
    train_state: dict[str, Any] | None = None,
) -> spec.UpdateReturn:
    """One step: the new optimizer state, parameters and model state."""
    del current_params_types, hyperparameters, loss_type, eval_results, train_state
    state, step = optimizer_state
    state, params, model_state, loss = step(state, current_param_container, model_state, batch, rng)
    if global_step % 100 == 0 and workload.metrics_logger is not None:
        workload.metrics_logger.append_scalar_metrics({"loss": loss}, global_step)
    return (state, step), params, model_state


def prepare_for_eval(
    workload: spec.Workload,
    current_param_container: spec.ParameterContainer,
    current_params_types: spec.ParameterTypeTree,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    loss_type: spec.LossType,
    optimizer_state: spec.OptimizerState,
    eval_results: list[tuple[int, float]],
    global_step: int,
    rng: spec.RandomState,
) -> spec.UpdateReturn:
    """Everything as it is: what is trained is what is evaluated."""
    del workload, current_params_types, hyperparameters, loss_type, eval_results, global_step, rng
    return optimizer_state, current_param_container, model_state


def data_selection(
    workload: spec.Workload,
    input_queue: Iterator[dict[str, spec.Tensor]],
    optimizer_state: spec.OptimizerState,
    current_param_container: spec.ParameterContainer,
    model_state: spec.ModelAuxiliaryState,
    hyperparameters: spec.Hyperparameters,
    global_step: int,
    rng: spec.RandomState,
) -> dict[str, spec.Tensor]:
    """The next batch of the queue."""
    del workload, optimizer_state, current_param_container, model_state, hyperparameters, global_step, rng
    return next(input_queue)


def _training_step(workload: Any, tx: optax.GradientTransformationExtraArgs) -> Callable:
    """Jitted, `(state, params, model_state, batch, rng) -> (state, params, model_state, loss)`."""

    def mean_loss(params, model_state, batch, rng):
        logits, model_state = workload.model_fn(
            params,
            batch,
            model_state,
            spec.ForwardPassMode.TRAIN,
            rng,
            update_batch_norm=True,
            dropout_rate=DROPOUT_RATE,
        )
        losses = workload.loss_fn(
            label_batch=batch["targets"], logits_batch=logits, mask_batch=batch.get("weights")
        )
        return losses["summed"] / losses["n_valid_examples"], model_state

    def step(state, params, model_state, batch, rng):
        differentiated = jax.value_and_grad(mean_loss, has_aux=True)
        (loss, model_state), grads = differentiated(params, model_state, batch, rng)
        updates, state = tx.update(grads, state, params, value=loss)
        return state, optax.apply_updates(params, updates), model_state, loss

    everywhere, split = _over_devices(), _over_devices("batch")
    shardings = (everywhere, everywhere, everywhere, split, everywhere)
    return jax.jit(step, in_shardings=shardings, out_shardings=everywhere, donate_argnums=(0, 1, 2))


def _over_devices(*axes: str) -> NamedSharding:
    """The same on all devices, or split over them along the first axis."""
    return NamedSharding(Mesh(jax.devices(), ("batch",)), PartitionSpec(*axes))
