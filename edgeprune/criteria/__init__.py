"""Criteria: how much a unit seems to matter, one file a family. The walk uses one as its order."""

from edgeprune.criteria.magnitude import magnitude

__all__ = ["magnitude"]
