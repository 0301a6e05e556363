"""The module around a loss: from a call to a number."""
