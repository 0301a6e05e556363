"""Similarities a tile at a time, in flat memory."""
