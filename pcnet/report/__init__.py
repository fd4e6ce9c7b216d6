"""The report page of one training run, or of two side by side."""
