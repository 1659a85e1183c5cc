"""What is known: PI-RADS v2.1 as data and pure functions. Standard library only; no image and no network in here.

``lexicon`` the concepts and their attributes, ``rules`` scores and category, ``sectors`` the 41 regions,
``rationale`` the tree of steps that a reader can follow and override. Research use only.
"""
