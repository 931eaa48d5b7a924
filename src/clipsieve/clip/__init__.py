"""CLIP models: load, preprocess, tokenize, encode; device and dtype policy."""
