"""Kaldi-style data directories: tables, audio, tokens and lengths."""
