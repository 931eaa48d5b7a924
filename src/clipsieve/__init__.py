"""Score, audit and filter web-scale image-text datasets with CLIP."""
