"""The `ood` family: how far each image is from a list of classes, or from a set of images."""
