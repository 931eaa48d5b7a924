"""Beam transforms, thin: they wire stages of the library into DoFns and CombineFns."""
