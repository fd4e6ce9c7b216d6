"""The commands of `pcnet`: their options, what they call, and what they print."""
