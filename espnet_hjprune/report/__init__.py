"""Scores, tables and figures made from finished experiments."""
