"""Masks: the run-length codec, the 32 x 32 grid layout and the loop compiler that all packages share."""
