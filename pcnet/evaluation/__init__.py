"""Evaluation and prediction: with the report, the only part of pcnet that reads ground truth."""
