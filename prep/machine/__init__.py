"""What this machine has: hardware, packages, weights and data, and what to do next."""
