"""From logits to probabilities, labels and certainty."""
