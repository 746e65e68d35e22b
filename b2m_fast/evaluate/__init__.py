"""Robustness, and statistics over seeds."""
