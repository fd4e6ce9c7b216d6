"""Reports what this machine has: hardware, packages, weights and data, and suggests the next steps."""
