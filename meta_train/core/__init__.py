"""The theory of one outer step: unrolled systems, perturbations, estimators, and the one jit."""
