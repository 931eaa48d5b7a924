"""Exports of a subset: one file a format, and the stage that writes them."""
