"""``python -m bench.models``: whole PyTorch models, remote beside the same device natively.

``zoo`` has the models, ``program`` runs them (in PyTorch's own Python, on a device), ``lanes`` are
the processes that do so natively and remotely, ``report`` the tables.
"""
