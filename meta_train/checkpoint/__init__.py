"""Checkpoints of a run: written atomically through Orbax, verified when they are read."""
