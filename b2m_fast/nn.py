"""The ops as modules."""
