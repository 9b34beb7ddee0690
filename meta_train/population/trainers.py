"""What a population can train, by name: `(searched names, *, options) -> Trainer`."""

from meta_train.config.own import Kind, Open
from meta_train.population.base import Trainer
from meta_train.population.meta_training import meta_training
from meta_train.population.supervised import supervised
from meta_train.population.toys import noisy_quadratic, surrogate

TRAINERS = Open(
    Kind("trainers", Trainer, ("searched",)),
    {
        "surrogate": surrogate,
        "noisy_quadratic": noisy_quadratic,
        "supervised": supervised,
        "meta_training": meta_training,
    },
)
