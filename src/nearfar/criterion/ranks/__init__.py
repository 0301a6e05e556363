"""The same call on many ranks."""
