"""Configs: a YAML file and the signatures of factories become a validated object, or a list of mistakes."""
