"""Fixtures that several tests share."""

from tests.scorers.plugins import install

__all__ = ["install"]
