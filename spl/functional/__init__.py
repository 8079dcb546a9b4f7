"""Ways to run a network that leave it as it was found: in another mode, with other weights, from another seed."""
