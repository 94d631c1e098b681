"""The REST API: one file per resource, each a thin translation to :mod:`gpu_broker.store`."""
