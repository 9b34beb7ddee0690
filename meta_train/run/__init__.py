"""A meta-training run: building it from a config, the loop, its hooks, its directory."""
