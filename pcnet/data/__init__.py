"""The training data: samples, sampling order, images, token ids and batches."""
