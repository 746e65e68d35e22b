"""Losses and scores over all pairs of a set of patterns."""
