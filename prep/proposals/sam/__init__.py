"""Masks of Segment Anything: the official generator's results, computed faster."""
