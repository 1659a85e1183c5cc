"""Who is in the real cases: every one of them is kept out of the simulation, and no patient is in both folds."""

from __future__ import annotations

import json
from pathlib import Path

from MedRationaleLogic.training.run import FOLD_A, FOLD_B, HELD_OUT


def patients(root: Path) -> dict[str, str]:
    """Case -> the PI-CAI patient that it is, where it is known to be one."""
    out = {}
    for meta in sorted(root.glob("*/*/meta.json")):
        picai = json.loads(meta.read_text(encoding="utf-8")).get("picai_id")
        if picai:
            out[meta.parent.name] = str(picai).split("_")[0]
    return out


def test_every_real_patients_label_maps_are_held_out(real_data: Path) -> None:
    found = patients(real_data)

    assert found
    assert set(found.values()) <= set(HELD_OUT)


def test_no_patient_is_in_both_folds(real_data: Path) -> None:
    found = patients(real_data)
    folds = [{found.get(case, case) for case in fold} for fold in (FOLD_A, FOLD_B)]

    assert folds[0].isdisjoint(folds[1])
    assert all(any(real_data.glob(f"*/{case}")) for case in (*FOLD_A, *FOLD_B))
