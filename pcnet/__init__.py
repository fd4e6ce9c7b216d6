"""PCNet: the network that grounds phrase after phrase, its losses, trainer and evaluator."""
