"""The submission to AlgoPerf has the benchmark's functions, arguments and types, and trains in its loop."""

import enum
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

SUBMISSION = Path(__file__).parents[2] / "benchmarks" / "algoperf_submission" / "submission.py"


class Modes(enum.Enum):
    """AlgoPerf's ForwardPassMode."""

    TRAIN = 0
    EVAL = 1


# The types of AlgoPerf's spec.py, by name: what the annotations are compared with.
NAMES = (
    "Workload ParameterContainer ParameterTypeTree ModelAuxiliaryState Hyperparameters RandomState Tensor "
    "LossType OptimizerState UpdateReturn"
)
SPEC = types.SimpleNamespace(**{name: type(name, (), {}) for name in NAMES.split()}, ForwardPassMode=Modes)
BATCH = dict[str, SPEC.Tensor]
STEP = {
    "workload": SPEC.Workload,
    "current_param_container": SPEC.ParameterContainer,
    "current_params_types": SPEC.ParameterTypeTree,
    "model_state": SPEC.ModelAuxiliaryState,
    "hyperparameters": SPEC.Hyperparameters,
}
REST = {
    "loss_type": SPEC.LossType,
    "optimizer_state": SPEC.OptimizerState,
    "eval_results": list[tuple[int, float]],
    "global_step": int,
    "rng": SPEC.RandomState,
}
# AlgoPerf 0.6: function -> its arguments in order, and what it returns.
INTERFACE = {
    "get_batch_size": ({"workload_name": str}, int),
    "init_optimizer_state": (
        {
            "workload": SPEC.Workload,
            "model_params": SPEC.ParameterContainer,
            "model_state": SPEC.ModelAuxiliaryState,
            "hyperparameters": SPEC.Hyperparameters,
            "rng": SPEC.RandomState,
        },
        SPEC.OptimizerState,
    ),
    "update_params": (
        {**STEP, "batch": BATCH, **REST, "train_state": dict[str, Any] | None},
        SPEC.UpdateReturn,
    ),
    "prepare_for_eval": ({**STEP, **REST}, SPEC.UpdateReturn),
    "data_selection": (
        {
            "workload": SPEC.Workload,
            "input_queue": Iterator[BATCH],
            "optimizer_state": SPEC.OptimizerState,
            "current_param_container": SPEC.ParameterContainer,
            "model_state": SPEC.ModelAuxiliaryState,
            "hyperparameters": SPEC.Hyperparameters,
            "global_step": int,
            "rng": SPEC.RandomState,
        },
        BATCH,
    ),
}


@pytest.fixture(scope="module")
def submission():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "algoperf", types.SimpleNamespace(spec=SPEC))
        found = importlib.util.spec_from_file_location("submission", SUBMISSION)
        module = importlib.util.module_from_spec(found)
        found.loader.exec_module(module)
    return module


class Regression:
    """A workload with what the submission uses of one: y = sin(x), a state that counts batches, padding."""

    step_hint = 400
    loss_type = None
    model_params_types = None

    def __init__(self):
        self.metrics_logger, self.logged = self, []

    def append_scalar_metrics(self, metrics, global_step):
        self.logged.append((global_step, float(metrics["loss"])))

    def init(self):
        w = jax.random.normal(jax.random.key(0), (1, 16))
        return {"in": {"kernel": w, "bias": jnp.zeros(16)}, "out": {"kernel": w.T / 4}}, {
            "batches": jnp.int32(0)
        }

    def model_fn(self, params, batch, model_state, mode, rng, update_batch_norm, dropout_rate):
        assert mode is Modes.TRAIN and update_batch_norm and 0 <= dropout_rate < 1
        hidden = jnp.tanh(batch["inputs"] @ params["in"]["kernel"] + params["in"]["bias"])
        return hidden @ params["out"]["kernel"], {"batches": model_state["batches"] + 1}

    def loss_fn(self, label_batch, logits_batch, mask_batch=None, label_smoothing=0.0):
        each = mask_batch * ((label_batch - logits_batch) ** 2).mean(-1)
        return {"summed": each.sum(), "n_valid_examples": mask_batch.sum(), "per_example": each}

    def batches(self, size):
        draw = np.random.default_rng(0)
        while True:
            x = draw.uniform(-2, 2, (size, 1)).astype(np.float32)
            y = np.sin(2 * x)
            x[-1], y[-1] = 1e3, -1e3  # padding, with weight 0
            yield {"inputs": x, "targets": y, "weights": np.r_[np.ones(size - 1), 0].astype(np.float32)}


def test_functions_arguments_and_types_are_those_of_the_benchmark(submission):
    for name, (arguments, returned) in INTERFACE.items():
        signature = inspect.signature(getattr(submission, name))
        found = {key: parameter.annotation for key, parameter in signature.parameters.items()}
        assert list(found.items()) == list(arguments.items()), name
        assert signature.return_annotation == returned, name
    optional = [
        p.name for p in inspect.signature(submission.update_params).parameters.values() if p.default is None
    ]
    assert optional == ["train_state"]


def test_it_trains_in_the_loop_of_the_runner_and_its_state_goes_through_a_checkpoint(submission):
    workload, rng = Regression(), jax.random.key(1)
    queue = workload.batches(submission.get_batch_size("mnist"))
    params, model_state = workload.init()
    optimizer_state = submission.init_optimizer_state(workload, params, model_state, None, rng)
    for step in range(201):
        batch = submission.data_selection(
            workload, queue, optimizer_state, params, model_state, None, step, rng
        )
        if step == 100:  # as the runner does: the state alone, through flax; the function stays
            state, update = optimizer_state
            stored = flax.serialization.msgpack_serialize(
                flax.serialization.to_state_dict(jax.device_get(state))
            )
            stored = flax.serialization.msgpack_restore(stored)
            optimizer_state = flax.serialization.from_state_dict(state, stored), update
        common = dict(
            workload=workload,
            current_param_container=params,
            current_params_types=workload.model_params_types,
            model_state=model_state,
            hyperparameters=None,
            loss_type=workload.loss_type,
            optimizer_state=optimizer_state,
            eval_results=[],
            global_step=step,
            rng=rng,
        )
        optimizer_state, params, model_state = submission.update_params(**common, batch=batch, train_state={})
        jax.block_until_ready(params)  # virtual devices on few cores abort if several steps wait for them
    common |= dict(current_param_container=params, model_state=model_state, optimizer_state=optimizer_state)
    assert submission.prepare_for_eval(**common) == (optimizer_state, params, model_state)
    assert int(model_state["batches"]) == 201
    assert [step for step, _ in workload.logged] == [0, 100, 200]
    assert workload.logged[-1][1] < 0.1 * workload.logged[0][1]


def test_an_unknown_workload_is_refused_by_name(submission):
    assert submission.get_batch_size("wmt") == 128
    with pytest.raises(ValueError, match="unknown workload wmt_2, must be one of cifar, .*, wmt$"):
        submission.get_batch_size("wmt_2")
