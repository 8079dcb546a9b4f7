"""Ways to run a network in another mode, with other weights or from another seed, and leave it unchanged."""
