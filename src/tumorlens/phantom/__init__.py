"""Simulated slices with exact tumor masks."""
