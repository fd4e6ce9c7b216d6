"""One run-length codec, one grid layout and one compiler of loops for everybody who handles masks."""
