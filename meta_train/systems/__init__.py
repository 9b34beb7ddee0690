"""Unrolled systems that are not the training of a task by a learned optimizer."""
