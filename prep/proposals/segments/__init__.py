"""Masks without weights, by classical segmentation and region merging."""
