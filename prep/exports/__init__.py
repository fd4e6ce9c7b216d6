"""Exports of a store: the files that other methods and tools read, one file here for each layout."""
