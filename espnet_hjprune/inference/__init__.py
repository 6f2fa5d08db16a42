"""Running trained models without ESPnet: batched decoding and export."""
