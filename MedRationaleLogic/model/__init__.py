"""The network that segments and shows evidence at once, and the bundle that carries it."""
