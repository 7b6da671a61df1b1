"""The web page: a slice in, classes, verdict and maps out."""
