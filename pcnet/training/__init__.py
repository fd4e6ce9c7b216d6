"""Training: the trainer, what it is set up from, its processes, its log and how it is stopped."""
