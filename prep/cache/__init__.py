"""The store: Parquet shards, their manifest, and the answers an engine has already given."""
