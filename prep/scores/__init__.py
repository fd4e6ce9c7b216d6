"""Scores proposals against expressions with CLIP."""
