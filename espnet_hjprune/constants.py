"""Numbers and names that the whole project shares."""

# Of all audio that an upstream takes, in samples per second.
SAMPLE_RATE = 16000
# How formatted audio may be stored.
AUDIO_FORMATS = ("flac", "wav", "flac.ark")
# Factors of speed perturbation.
SLOWEST, FASTEST = 0.5, 2.0
# Samples from one frame of an upstream to the next, and those that the first one sees.
FRAME_SHIFT, FRAME_LENGTH = 320, 400
# Tokens that have a meaning of their own in ESPnet's token lists.
BLANK, UNKNOWN, SPACE, SOS_EOS = "<blank>", "<unk>", "<space>", "<sos/eos>"
