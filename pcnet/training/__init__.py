"""Training: the training loop, its settings, its processes, its log and its handling of signals."""
