"""Learned optimizers for PyTorch: the same JAX update, on the memory of the PyTorch parameters.

Importing this module sets XLA_PYTHON_CLIENT_PREALLOCATE=false, unless that variable is set: otherwise JAX
would reserve three quarters of a GPU's memory when it starts, and PyTorch would go without.
"""

import os

os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # JAX reads it at its first computation

try:
    import torch as _torch  # pyright: ignore[reportMissingImports] - optional  # noqa: F401
except ImportError as error:
    raise ImportError("learned_opt.torch needs PyTorch: pip install 'learned-opt[torch]'") from error

from learned_opt.torch.optimizer import Optimizer

__all__ = ["Optimizer"]
