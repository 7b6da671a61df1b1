"""The networks: ResNet18 and SE-ResNet18."""
