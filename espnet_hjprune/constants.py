"""Numbers that the whole project shares."""

# Of all audio that an upstream takes, in samples per second.
SAMPLE_RATE = 16000
