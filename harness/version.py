"""The version, which everything that is recorded is marked with."""

__version__ = "0.1.0"
