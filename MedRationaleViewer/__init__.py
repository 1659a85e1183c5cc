"""The browser face: ``medrationale view`` opens a page with Slicer's views on a study. Research use only.

    browser  --HTTP, websocket-->  front (one process)  --passes on-->  tab process (one for each browser tab)
                                     +-- starts and keeps the process of the shared network

``server`` is the front, ``tabs`` the tab processes as it sees them, ``security`` who may ask it, ``assets`` what it
serves by itself, ``studies`` the studies below ``--root`` and uploads. Of these none imports Slicer's libraries, VTK,
PyTorch or trame's server; ``tab`` and what it is made of does.
"""
