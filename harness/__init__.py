"""Experiments: policies, rollouts, runs, sweeps, evaluation and the command line.

Importing the package is cheap: what needs torch is imported by the modules that use it.
"""

from harness.errors import ExperimentError

__all__ = ["ExperimentError"]
