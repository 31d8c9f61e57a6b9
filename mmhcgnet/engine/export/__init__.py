"""Models out of PyTorch: graphs of standard ONNX operators with pre- and post-processing inside."""

from .files import output_files, write_model
from .models import Exported, check_exportable, export_backbone, export_model, export_network

__all__ = [
    "Exported",
    "check_exportable",
    "export_backbone",
    "export_model",
    "export_network",
    "output_files",
    "write_model",
]
