"""The commands of `pcnet-prep`: their options, the functions they call, and their output."""
