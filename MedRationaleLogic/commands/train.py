"""``medrationale train``: the same code and the same options as ``train_backend.py``."""

from __future__ import annotations

import typer

#: Everything after the command's name goes to the one parser of training, its --help as well.
SETTINGS = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}


def train(context: typer.Context) -> None:
    """Train or fine-tune a bundle on triples; 'medrationale train --help' shows the options."""
    from MedRationaleLogic.training.backend import main

    code = main(context.args)
    if code:
        raise typer.Exit(code)
