"""Read before all else where tabs are made: lets the loader look up a library's functions when they are first called.

VTK's and Slicer's libraries refer to hundreds of thousands of functions of each other, and a tab calls few of them.
Looking them all up at once, as Python asks the loader to, costs a third of a second.
"""

from __future__ import annotations

import os
import sys
import warnings

# `python -m` names the main module twice, and the processes made here have read it already
warnings.filterwarnings("ignore", message="'MedRationaleLogic.cli' found in sys.modules", category=RuntimeWarning)

if hasattr(os, "RTLD_LAZY"):
    sys.setdlopenflags(os.RTLD_LAZY)
