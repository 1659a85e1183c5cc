"""The pieces of the Slicer module MedRationale: installing, sample data, and the sections of its panel.

Importing this package imports none of them: Slicer starts up as fast as without it.
"""
