"""The speech encoder of the wav2vec 2.0 family with per-layer sizes and optional gates."""
