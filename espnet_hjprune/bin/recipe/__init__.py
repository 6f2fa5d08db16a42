"""Commands that only the recipes call."""
