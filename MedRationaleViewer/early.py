"""Read before all else where tabs are made: lets the loader look up a library's functions when they are first called.

VTK's and Slicer's libraries refer to hundreds of thousands of functions of each other, and a tab calls few of them.
Looking them all up at once, as Python asks the loader to, costs a third of a second.
"""

from __future__ import annotations

import os
import sys

if hasattr(os, "RTLD_LAZY"):
    sys.setdlopenflags(os.RTLD_LAZY)
