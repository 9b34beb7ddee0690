"""Student MLPs that learn from a teacher of their own, on inputs that never repeat."""

from typing import Annotated

import annotated_types as at
import jax
import jax.numpy as jnp

from tasks.base import NO_DATA, Task, TaskFamily
from tasks.families import networks
from tasks.families.networks import Activation, PositiveInt, Range, Widths, normal, sample_range, scaled


def teacher_mlp(
    *,
    features: PositiveInt = 64,
    classes: Annotated[int, at.Ge(2)] = 10,
    hidden: Widths = (32,),
    activation: Activation = "relu",
    teacher_hidden: PositiveInt = 32,
    input_scale: Range = 1.0,
    label_noise: Annotated[float, at.Interval(ge=0, lt=1)] = 0.0,
    batch_size: PositiveInt = 64,
    initial_scale: Range = 1.0,
) -> TaskFamily:
    """An MLP classifier of Gaussian inputs labelled by a random one-layer tanh MLP, new in every task.

    The teacher is odd, so every logit has mean 0 and the classes are about equally frequent.
    Training and validation losses have the same distribution, since no input is seen twice.

    Args:
      features: width of the inputs.
      classes: number of labels.
      hidden: widths of the student's hidden layers.
      activation: of the student.
      teacher_hidden: width of the teacher's hidden layer.
      input_scale: standard deviation of the inputs that the student sees; a pair (low, high) is
        drawn log-uniformly per task.
      label_noise: probability that a label is replaced by a uniform draw.
      batch_size: rows of a minibatch.
      initial_scale: factor on the student's initial matrices, a number or a log-uniform range.

    Returns:
      A family without data; its cfg holds the teacher's weights and the two scales.

    Source: Gardner & Derrida 1989 (teacher and student); Saad & Solla 1995.
    """
    networks.check_range("input_scale", input_scale)
    networks.check_range("initial_scale", initial_scale)
    init, apply = networks.pure(lambda x: networks.mlp(x, hidden, classes, activation), 1, features)

    def sample(key):
        key_hidden, key_output, key_input, key_initial = jax.random.split(key, 4)
        return {
            "hidden": 2 * features**-0.5 * normal(key_hidden, (features, teacher_hidden)),
            "output": normal(key_output, (teacher_hidden, classes)),
            "input_scale": sample_range(key_input, input_scale),
            "initial_scale": sample_range(key_initial, initial_scale),
        }

    def task(cfg):
        def loss(params, key, data):
            key_x, key_noise, key_label = jax.random.split(key, 3)
            x = normal(key_x, (batch_size, features))
            labels = jnp.argmax(jnp.tanh(x @ cfg["hidden"]) @ cfg["output"], axis=-1)
            if label_noise:
                wrong = jax.random.bernoulli(key_noise, label_noise, labels.shape)
                labels = jnp.where(wrong, jax.random.randint(key_label, labels.shape, 0, classes), labels)
            return networks.cross_entropy(apply(params, cfg["input_scale"] * x), labels)

        return Task(lambda key: scaled(init(key), cfg["initial_scale"]), loss)

    return TaskFamily(sample, task, NO_DATA)
