"""Files of tiny networks that see something in noise."""

from __future__ import annotations

from pathlib import Path

import torch
from helpers.configs import shapes_classifier, shapes_detector
from helpers.exported import scatter

from mmhcgnet.engine import build_model, load_config


def write_networks(folder: Path) -> None:
    """Write a classifier and a detector of five classes, a config and a checkpoint of each."""
    torch.manual_seed(0)
    for name, text in dict(classifier=shapes_classifier(), detector=shapes_detector()).items():
        (folder / f"{name}.py").write_text(text)
        model = build_model(load_config(str(folder / f"{name}.py")))
        scatter(model)
        if name == "detector":
            with torch.no_grad():
                model.roi_head.bbox_head.fc_cls.bias[-1] = -3
        meta = dict(dataset_meta=dict(classes=list("abcde")))
        torch.save(dict(meta=meta, state_dict=model.state_dict()), folder / f"{name}.pth")
