"""The road from a :class:`~MedRationaleLogic.imaging.study.Study` to an :class:`~.explanation.Explanation`."""
