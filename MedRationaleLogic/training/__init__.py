"""Training: data, losses and the Lightning module. Needs the ``train`` extra; nothing at run time imports it."""
