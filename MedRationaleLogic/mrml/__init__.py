"""Nodes in, nodes out: the only room that knows MRML and RAS.

| file | what |
|---|---|
| ``geometry`` | volume nodes to :class:`~MedRationaleLogic.imaging.volume.Volume` and back, transforms respected |
| ``inputs`` | which nodes of a scene are T2W, ADC and high-b; nodes to a Study, refused or asked about where odd |
| ``case_scene`` | all that a case shows in a scene, made, saved, restored and removed in one place |
| ``segments``, ``markers``, ``evidence``, ``hierarchy``, ``parts`` | its pieces |
| ``terminology`` | coded names and colours of the segments |
| ``layout`` | T2W with evidence, ADC, high-b, 3D, linked |

Works in Slicer and on slicer-core alone; a layout manager, a DICOM database and the Colors module are used where they
exist and missed nowhere. No Qt here.
"""
