"""Carrel's benchmarks: one command, one table, JSON results with the machine named."""
