"""Scoring of decoded test sets: sclite, confusion of labels, decoding times."""
