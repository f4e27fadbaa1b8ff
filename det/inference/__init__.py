"""How images are predicted: whole, or in overlapping tiles."""
