"""The command line, `meta-train`: one command a file."""
