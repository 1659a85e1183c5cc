#!/usr/bin/env python3
"""Train or fine-tune a MedRationale bundle, inside 3D Slicer or with plain Python. Research use only.

    Slicer --no-splash --no-main-window --python-script train_backend.py --data DIR --output DIR [--init BUNDLE] ...
    python train_backend.py --data DIR --output DIR [--init BUNDLE] [--epochs N] ...

ASCII only. Everything, imports included, is inside one try: an exception that leaves this script would keep Slicer open
without a window. Nothing is asked; what is missing is said with exit code 3, or installed with --install.
"""


def _run():
    import os
    import sys

    # beside this script in a clone; two folders up in an installed extension (Resources/Scripts)
    here = os.path.dirname(os.path.abspath(__file__))
    for root in (here, os.path.dirname(os.path.dirname(here))):
        if os.path.isdir(os.path.join(root, "MedRationaleLogic")):
            if root not in sys.path:
                sys.path.insert(0, root)
            break
    from MedRationaleLogic.training.backend import main

    return main(sys.argv[1:], "train_backend.py")


if __name__ == "__main__":
    import sys

    try:
        code = _run()
    except KeyboardInterrupt:
        code = 130
    except ImportError as error:
        sys.stderr.write("medrationale: " + ascii(str(error)) + "; run this script from the extension's folder\n")
        code = 3
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    sys.exit(code)
