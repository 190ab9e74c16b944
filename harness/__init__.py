"""Benchmarking and autotuning of distributed training: which strategy trains a model fastest on this hardware."""

__version__ = "0.1.0"
