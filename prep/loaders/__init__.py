"""Gives a store to training code of others: Hugging Face datasets, PyTorch and WebDataset."""
