"""Comparisons as HTML pages: each complete by itself, without network, light and dark, every text escaped."""
