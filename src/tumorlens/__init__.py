"""Train, compare and explain brain-tumor MRI classifiers, and say how far to believe them.

Import what you need from `tumorlens.api`; this module loads nothing heavy. For research: not a
medical device.
"""

__version__ = "0.1.0"
