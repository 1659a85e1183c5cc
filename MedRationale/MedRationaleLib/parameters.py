"""What the panel remembers in the scene: the input nodes and settings, saved with it. Not the reader's name: who opens
a scene is not who saved it.

No `from __future__ import annotations` here: Slicer's wrapper reads the annotations as types.
"""

from slicer import vtkMRMLScalarVolumeNode
from slicer.parameterNodeWrapper import parameterNodeWrapper


@parameterNodeWrapper
class Parameters:
    """One instance of the panel's state; names are those of the dynamic property `SlicerParameterName` in the .ui."""

    t2w: vtkMRMLScalarVolumeNode
    adc: vtkMRMLScalarVolumeNode
    hbv: vtkMRMLScalarVolumeNode
    psa: float = 0.0
    opacityPercent: int = 60
    thresholdPercent: int = 50
