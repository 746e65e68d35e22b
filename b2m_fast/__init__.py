"""Exact losses over all pairs of a set of patterns, and ways of teaching a network from a brain."""
