"""Data preparation, tokens and shapes shared by the recipes."""
