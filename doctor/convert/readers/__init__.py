"""Reads the formats of annotation programs: each module has `read(root)`, which returns a `Source`."""
