"""Model packages written for other programs: nnU-Net's predictor, and what reads the bioimage.io format."""

from mambaseg.models.exporter.run import FORMATS, Exported, export_model

__all__ = ["FORMATS", "Exported", "export_model"]
