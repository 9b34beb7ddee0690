"""Trained optimizers as files: the format, the model card, the packaged ones, and the Hugging Face Hub."""
