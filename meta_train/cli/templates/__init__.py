"""What `meta-train new` writes: each file is a working example, in which `my_KIND` is replaced by a name."""
