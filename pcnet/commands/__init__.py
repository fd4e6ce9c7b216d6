"""The commands of `pcnet`: their options, the functions they call, and their output."""
