"""Several processes or hosts that run one meta-training together."""
