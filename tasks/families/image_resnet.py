"""Small residual networks with stateless normalisation."""

import jax

from tasks.base import TaskFamily
from tasks.families import networks, supervised
from tasks.families.networks import ACTIVATIONS, Activation, PositiveInt, Range, Widths


def image_resnet(
    *,
    datasets: tuple[str, ...] = ("digits[:1200]",),
    channels: Widths = (8, 16),
    blocks: PositiveInt = 1,
    activation: Activation = "relu",
    batch_size: PositiveInt = 16,
    permute_labels: bool = False,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """A pre-activation residual network (He et al. 2016) with layer norm over channels.

    Layer norm takes the place of batch norm, whose running statistics a pure loss cannot keep.

    Args:
      datasets: names of image data as in `tasks.data.datasets.load`, of one example shape.
      channels: of each stage; every stage after the first halves the resolution.
      blocks: residual blocks of two convolutions per stage.
      activation: before every convolution.
      batch_size: rows of a minibatch.
      permute_labels: whether each task renames the classes by its own permutation.
      initial_scale: factor on the initial kernels, a number or a log-uniform range.

    Returns:
      A family with cfg {"dataset": i32[], "labels": i32[classes], "scale": f32[]}.

    Source: He et al. 2016, with layer norm for batch norm, so that a task keeps no state.
    """
    supervised.image_stack(datasets)
    act = ACTIVATIONS[activation]

    def network(x: jax.Array, num_classes: int) -> jax.Array:
        x = networks.conv(x, channels[0])
        for stage, width in enumerate(channels):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                h = act(networks.layer_norm(x))
                shortcut = networks.conv(h, width, kernel=1, stride=stride) if x.shape[-1] != width else x
                h = act(networks.layer_norm(networks.conv(h, width, stride=stride)))
                x = (shortcut if shortcut.shape == h.shape else h) + networks.conv(h, width)
        return networks.linear(act(networks.layer_norm(x)).mean((1, 2)), num_classes)

    return supervised.classification(network, datasets, batch_size, permute_labels, initial_scale)
