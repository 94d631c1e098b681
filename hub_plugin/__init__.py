"""Carrel in JupyterHub: slices of remote GPUs for people's servers."""

from hub_plugin.configure import configure

__all__ = ["configure"]
