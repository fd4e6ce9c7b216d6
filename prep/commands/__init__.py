"""The commands of `pcnet-prep`: their options, what they call, and what they print."""
