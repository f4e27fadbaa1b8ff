"""Readers for the formats of annotation tools: each module has `read(root)`, which returns a `Source`."""
