"""Inner tasks: what learned optimizers are meta-trained and evaluated on."""
