"""Commands of `meta-train` that have a file of their own: `add(commands)` declares one and its options."""
