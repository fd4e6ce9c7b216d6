"""Segment Anything masks: the results of the reference generator, computed faster."""
