"""Tables of latencies that come with the package; `hjprune measure` makes others."""
