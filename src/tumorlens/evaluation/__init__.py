"""Scores with their uncertainty, and the images of them."""
