"""Preparation for weakly supervised referring segmentation: phrases, proposals and the store they live in."""
