"""Triton versions of what attention.py does tile by tile, for CUDA; needs triton, which torch's CUDA builds bring."""
