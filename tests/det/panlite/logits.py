"""Logits whose distribution has a given mean."""

import torch


def distance_logits(distances, bins=4):
    """Distances [A, 4] -> logits [A, 4 * bins] of a distribution over the two bins around each."""
    distances = torch.as_tensor(distances, dtype=torch.float32)
    places = torch.arange(bins)
    shares = (1 - (distances[..., None] - places).abs()).clamp(min=0)
    return shares.log().clamp(min=-1e4).flatten(1)
