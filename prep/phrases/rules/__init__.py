"""Decomposes expressions without a model: tokens, a grammar over word classes, and cues."""
