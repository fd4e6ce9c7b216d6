"""The file tree of the released PCNet code: export from a store and import into one."""
