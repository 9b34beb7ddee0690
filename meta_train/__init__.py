"""Meta-training of learned optimizers: unrolled systems, outer-gradient estimators, the trainer."""
