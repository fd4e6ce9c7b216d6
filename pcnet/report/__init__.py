"""The page about one run, or two side by side."""
