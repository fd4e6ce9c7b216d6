"""FreeSOLO's masks, by its published inference in plain PyTorch."""
