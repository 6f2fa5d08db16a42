"""Speech corpora in their published layouts: downloads and data preparation."""
