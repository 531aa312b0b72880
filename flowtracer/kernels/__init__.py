"""Triton versions of what readings.py does tile by tile, for CUDA; needs triton, which torch's CUDA builds bring."""
