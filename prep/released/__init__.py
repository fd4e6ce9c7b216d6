"""The file tree of the released PCNet code: written from a store, and read into one."""
