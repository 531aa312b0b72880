"""Sweeps: the runs of an experiment as jobs, the workers that do them here or on a Ray cluster, and their order."""
