"""Accuracy after attacks (figure 5 of the paper)."""
