"""Trained networks as files, and as sessions with their images."""
