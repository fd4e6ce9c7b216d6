"""Proposals: class-agnostic masks of an image, as run lengths."""
