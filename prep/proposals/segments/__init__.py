"""Masks without weights: classical segmentation, merged."""
