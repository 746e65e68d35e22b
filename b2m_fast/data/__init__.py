"""Recordings, images and tasks."""
