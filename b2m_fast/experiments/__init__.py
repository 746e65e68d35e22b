"""Experiments around the methods: arms, settings, runs, reports."""
