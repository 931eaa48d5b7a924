"""Beam transforms, thin: they wire library functions into DoFns and CombineFns."""
