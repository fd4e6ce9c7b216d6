"""The report page of one run, or of two side by side."""
