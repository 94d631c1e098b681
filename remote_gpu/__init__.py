"""Carrel's data plane: client libraries, worker, software GPU, node agent."""

__version__ = "0.1.0"
