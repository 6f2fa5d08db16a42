"""Measuring speed and memory of encoders, several models side by side."""
