"""Scores, with the convention behind each of them named.

`overlap` (Dice, IoU), `distance` (HD95, normalised surface Dice), `matching` (instances: F1, average precision) and
`evaluate`, which applies them to files, folders and arrays.
"""

from mambaseg.metrics._cases import pair
from mambaseg.metrics.matching import average_precision, f1, match_instances
from mambaseg.metrics.overlap import Convention, class_counts, confusion, dice, iou
from mambaseg.metrics.summary import evaluate

__all__ = ["Convention", "average_precision", "class_counts", "confusion", "dice", "evaluate", "f1", "iou",
           "match_instances", "pair"]
