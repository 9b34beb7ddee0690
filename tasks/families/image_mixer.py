"""Small MLP-mixers."""

import jax

from tasks.base import TaskFamily
from tasks.families import networks, supervised
from tasks.families.image_vit import check_patch, patches
from tasks.families.networks import PositiveInt, Range


def image_mixer(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    patch: PositiveInt = 2,
    width: PositiveInt = 16,
    depth: PositiveInt = 1,
    batch_size: PositiveInt = 32,
    permute_labels: bool = False,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """An MLP-mixer (Tolstikhin et al. 2021): MLPs over patches and over channels in turn.

    Args:
      datasets: names of image data as in `tasks.data.datasets.load`, of one example shape.
      patch: side of the square patches; must divide height and width of the images.
      width: channels; the hidden layers have as many units as what they mix.
      depth: mixer blocks.
      batch_size: rows of a minibatch.
      permute_labels: whether each task renames the classes by its own permutation.
      initial_scale: factor on the initial matrices, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "labels": i32[classes], "scale": f32[]}.

    Raises:
      ValueError: a patch that does not divide.

    Source: Tolstikhin et al. 2021.
    """
    check_patch(supervised.image_stack(datasets).shape, patch)

    def network(x: jax.Array, num_classes: int) -> jax.Array:
        x = networks.linear(patches(x, patch), width)
        tokens = x.shape[1]
        for i in range(depth):
            across = networks.layer_norm(x).swapaxes(1, 2)
            x = x + networks.mlp(across, (tokens,), tokens, "gelu", name=f"tokens_{i}").swapaxes(1, 2)
            x = x + networks.mlp(networks.layer_norm(x), (width,), width, "gelu", name=f"channels_{i}")
        return networks.linear(networks.layer_norm(x).mean(1), num_classes, "head")

    return supervised.classification(network, datasets, batch_size, permute_labels, initial_scale)
