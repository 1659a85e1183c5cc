"""Commands of the command line that need more than a reader has: simulate, curate, train, evaluate."""
