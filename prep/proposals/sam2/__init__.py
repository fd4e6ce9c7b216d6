"""SAM 2 masks: the results of the package sam2's automatic mask generator, computed faster."""
