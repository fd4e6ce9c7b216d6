"""Finds what noun phrases name in images: masks or boxes of open-vocabulary detectors."""
