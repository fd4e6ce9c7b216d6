"""Evaluation and prediction: the only part of PCNet that reads ground truth."""
