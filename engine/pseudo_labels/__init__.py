"""Predictions as labels: a data set in a new folder that `tools/train.py` reads."""
