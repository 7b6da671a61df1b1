"""The web page: a slice in, classes, decision and maps out."""
