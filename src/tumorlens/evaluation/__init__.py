"""Scores with their uncertainty, and the pictures of them."""
