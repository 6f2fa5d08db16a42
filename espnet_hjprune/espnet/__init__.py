"""The ``hj_prune`` plugin for ESPnet."""
