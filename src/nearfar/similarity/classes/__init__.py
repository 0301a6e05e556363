"""Embeddings against learned vectors of classes."""
