"""The demo: a synthetic dataset, the whole pipeline on it, and a page with the results."""
