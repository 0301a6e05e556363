"""The matrix of similarities in memory."""
