"""The network: encoders, stages, weights and checkpoints."""
