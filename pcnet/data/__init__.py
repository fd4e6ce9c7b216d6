"""The training set: samples, their order, images, token ids and batches."""
