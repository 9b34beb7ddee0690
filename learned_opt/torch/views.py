"""One memory, two libraries: PyTorch tensors as JAX arguments, and JAX arrays as PyTorch tensors."""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch  # pyright: ignore[reportMissingImports] - optional

DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def checked_tensor(name: str, x: torch.Tensor) -> torch.Tensor:
    """`x`, if JAX can compute on it.

    Raises:
      TypeError: a subclass of torch.Tensor (DTensor, quantized), or a dtype that is not in DTYPES.
      ValueError: it is neither on a CPU nor on a GPU that JAX sees as well.
    """
    kind = type(x.detach())
    if kind is not torch.Tensor:
        raise TypeError(f"parameter {name} is a {kind.__name__}, must be a plain torch.Tensor")
    if x.dtype not in DTYPES:
        allowed = ", ".join(_word(dtype) for dtype in DTYPES)
        raise TypeError(f"parameter {name} is {_word(x.dtype)}, must be one of {allowed}")
    jax_device(x.device)
    return x


def jax_device(device: torch.device) -> Any:
    """JAX's name for a device of PyTorch; a ValueError if it has none."""
    if device.type not in ("cpu", "cuda"):
        raise ValueError(f"the parameters are on {device}, must be on a CPU or on an NVIDIA or AMD GPU")
    try:
        found = jax.local_devices(backend="cpu" if device.type == "cpu" else "gpu")
    except RuntimeError as error:
        hint = "" if device.type == "cpu" else ": pip install 'learned-opt[cuda]'"
        raise ValueError(f"the parameters are on {device}, where this JAX cannot compute{hint}") from error
    if device.type == "cpu":
        return found[0]
    try:
        return next(one for one in found if one.local_hardware_id == (device.index or 0))
    except StopIteration:
        raise ValueError(f"the parameters are on {device}, of which JAX sees only {found}") from None


def argument(x: torch.Tensor) -> Any:
    """What a jitted function reads the memory of `x` from; float64 becomes float32.

    Copied are float64, tensors that are not contiguous, and (by JAX) those that do not begin at a multiple of
    64 bytes. On a CPU the view is NumPy's, which JAX takes over several times as fast as a DLPack capsule; on
    a GPU it is DLPack's, and JAX's stream waits for what PyTorch's current stream still has to write.
    """
    x = x.detach() if x.requires_grad else x
    if x.dtype is torch.float64 or not x.is_contiguous():
        x = x.to(torch.float32 if x.dtype is torch.float64 else x.dtype).contiguous()
    if x.device.type != "cpu":
        return jax.dlpack.from_dlpack(x)
    if x.dtype is torch.bfloat16:  # NumPy has no such type of its own
        return x.view(torch.int16).numpy().view(jnp.bfloat16)
    return x.numpy()


def result(x: jax.Array) -> torch.Tensor:
    """The memory of a JAX array as a tensor; on a GPU, PyTorch's current stream waits for it."""
    return torch.from_dlpack(x)


def add_in_place(pairs: Iterable[tuple[torch.Tensor, jax.Array]]) -> None:
    """Adds to each tensor the array of its shape.

    On a CPU NumPy adds: after an addition of PyTorch its threads wait in a loop, and take the cores from JAX.
    """
    for p, step in pairs:
        if p.device.type == "cpu" and p.dtype is not torch.bfloat16:
            host = p.detach().numpy()
            np.add(host, np.frombuffer(step, step.dtype).reshape(host.shape), out=host)
            torch.autograd.graph.increment_version(p)  # as PyTorch's own additions do
        else:
            with torch.no_grad():
                p.add_(result(step))


def stored(x: jax.Array) -> torch.Tensor:
    """A copy of an array, for a state dict; of a random key, its bits."""
    return result(jax.random.key_data(x) if _is_key(x) else x).clone()


def restored(x: Any, like: jax.Array) -> jax.Array | None:
    """The array that `stored` made a tensor of; None if the tensor is not of an array like this one."""
    bits = jax.random.key_data(like) if _is_key(like) else like
    if not isinstance(x, torch.Tensor) or tuple(x.shape) != bits.shape or _word(x.dtype) != bits.dtype.name:
        return None
    host = x.detach().cpu()
    host = host.view(torch.int16).numpy().view(jnp.bfloat16) if x.dtype is torch.bfloat16 else host.numpy()
    array = jnp.array(np.array(host))  # a copy of its own: the state is donated
    return jax.random.wrap_key_data(array, impl=jax.random.key_impl(like)) if _is_key(like) else array


def _is_key(x: Any) -> bool:
    return jnp.issubdtype(x.dtype, jax.dtypes.prng_key)


def _word(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
