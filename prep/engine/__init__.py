"""Runs a stage over units of work, in this process or on Ray, with progress, signals and a plan."""
