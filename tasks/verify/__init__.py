"""Verifiers: where an answer stands in a response, and whether it equals the gold. No file here knows a
benchmark.
"""
