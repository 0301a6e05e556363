"""What formulas of losses share."""
