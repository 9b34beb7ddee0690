"""The data that tasks train on: what ships with the project, TensorFlow Datasets, Hugging Face, files."""
