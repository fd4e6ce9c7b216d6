"""Scores: how well CLIP finds that each proposal agrees with each expression."""
