"""Readers of the datasets' own files: expressions, images, annotations and expected counts."""
