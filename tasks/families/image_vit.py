"""Small vision transformers."""

import haiku as hk
import jax

from tasks.base import TaskFamily
from tasks.families import networks, supervised
from tasks.families.networks import PositiveInt, Range


def image_vit(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    patch: PositiveInt = 4,
    width: PositiveInt = 16,
    depth: PositiveInt = 1,
    heads: PositiveInt = 2,
    batch_size: PositiveInt = 32,
    permute_labels: bool = False,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """A vision transformer (Dosovitskiy et al. 2021): pre-norm, mean pooling, no class token.

    Args:
      datasets: names of image data as in `tasks.data.datasets.load`, of one example shape.
      patch: side of the square patches; must divide height and width of the images.
      width: of the residual stream.
      depth: transformer blocks.
      heads: of the attention; must divide `width`.
      batch_size: rows of a minibatch.
      permute_labels: whether each task renames the classes by its own permutation.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "labels": i32[classes], "scale": f32[]}.

    Raises:
      ValueError: a patch or number of heads that does not divide.

    Source: Dosovitskiy et al. 2021.
    """
    networks.check_heads(width, heads)
    check_patch(supervised.image_stack(datasets).shape, patch)

    def network(x: jax.Array, num_classes: int) -> jax.Array:
        x = networks.linear(patches(x, patch), width)
        position = hk.get_parameter("position", x.shape[1:], init=networks.fan_in)
        x = networks.transformer(x + position, depth, heads, causal=False)
        return networks.linear(x.mean(1), num_classes, "head")

    return supervised.classification(network, datasets, batch_size, permute_labels, initial_scale)


def check_patch(shape: tuple[int, ...], patch: int) -> None:
    """Refuses (ValueError) a patch that does not tile the images."""
    if shape[0] % patch or shape[1] % patch:
        raise ValueError(
            f"patch: {patch} must divide the image's height and width, {shape[0]} and {shape[1]}"
        )


def patches(x: jax.Array, patch: int) -> jax.Array:
    """[B, H, W, C] -> [B, (H / patch) (W / patch), patch patch C]."""
    batch, height, width, channels = x.shape
    x = x.reshape(batch, height // patch, patch, width // patch, patch, channels)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(batch, -1, patch * patch * channels)
