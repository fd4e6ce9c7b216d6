"""The demo: a synthetic dataset, the whole chain on it, and the page that shows the result."""
