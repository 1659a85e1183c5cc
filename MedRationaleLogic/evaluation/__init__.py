"""Measurements: what the model does on cases that it was not trained on, with n and intervals."""
