"""A finished run as one page and a model card."""
