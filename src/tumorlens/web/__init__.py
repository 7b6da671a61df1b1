"""The web page: a slice in; classes, decision and saliency maps out."""
