"""Files of named tensors: safetensors, and PyTorch's `.pt` read without unpickling code."""

import importlib
import io
import warnings
from typing import Any

import ml_dtypes  # a dependency of jax
import numpy as np
import safetensors

from learned_opt.importers.foreign import File, as_float32
from learned_opt.importers.settings import ImportProblem

DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16}
TORCH_SUFFIXES = (".pt", ".pth", ".bin")


def state_dict(file: File) -> dict[str, np.ndarray]:
    """The tensors of a file by name, as float32.

    Raises:
      ImportProblem: damaged, foreign, or tensors that are not of real floating-point numbers.
    """
    found = _torch(file) if file.path.suffix in TORCH_SUFFIXES else _safetensors(file)
    return {name: as_float32(array) for name, array in found.items()}


def _safetensors(file: File) -> dict[str, np.ndarray]:
    try:
        entries = safetensors.deserialize(file.content)
    except safetensors.SafetensorError as error:
        said = " ".join(str(error).split())
        raise ImportProblem(f"{file.name} is damaged, or no safetensors file: {said}") from error
    found = {}
    for name, entry in entries:
        if entry["dtype"] not in DTYPES:
            raise ImportProblem(f"{file.name}: {name} is of {entry['dtype']}, not of floating-point numbers")
        dtype = np.dtype(DTYPES[entry["dtype"]]).newbyteorder("<")
        found[name] = np.frombuffer(entry["data"], dtype).reshape(entry["shape"])
    return found


def _torch(file: File) -> dict[str, np.ndarray]:
    try:
        torch: Any = importlib.import_module("torch")  # optional
    except ImportError as error:
        raise ImportProblem(
            f"{file.name} is a PyTorch file: reading it needs `pip install torch`; "
            "or save its state dict with safetensors"
        ) from error
    try:
        with warnings.catch_warnings(action="ignore"):
            loaded = torch.load(io.BytesIO(file.content), map_location="cpu", weights_only=True)
    except Exception as error:  # torch's reader fails in a dozen ways on damaged files
        raise ImportProblem(
            f"{file.name} is damaged, or holds more than tensors and is not unpickled: {_first_line(error)}"
        ) from error
    if not isinstance(loaded, dict) or not all(isinstance(x, torch.Tensor) for x in loaded.values()):
        raise ImportProblem(f"{file.name} is not a state dict: a mapping of names to tensors was expected")
    for name, tensor in loaded.items():
        if not tensor.is_floating_point():
            raise ImportProblem(f"{file.name}: {name} is of {tensor.dtype}, not of floating-point numbers")
    return {str(name): tensor.detach().to(torch.float32).numpy() for name, tensor in loaded.items()}


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
