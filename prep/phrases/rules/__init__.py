"""Phrases without a model: the words, the grammar over their classes, and the cues that it finds."""
