"""What segments are called in SNOMED CT, so that DICOM and other programs understand them."""

from __future__ import annotations

__all__ = ["entry"]

# Type of structure, and its side where it has one, by the words of a class name
_STRUCTURES = {
    "hippocampus": "5366008", "brain": "12738006", "liver": "10200004", "spleen": "78961009", "kidney": "64033007",
    "pancreas": "15776009", "gallbladder": "28231008", "stomach": "69695003", "aorta": "15825003", "heart": "80891009",
    "lung": "39607008", "esophagus": "32849002", "duodenum": "38848004", "trachea": "44567001", "prostate": "41216001",
    "thyroid": "69748006", "colon": "71854001",
}
_SIDES = {"left": "SCT^7771000^Left", "right": "SCT^24028007^Right"}
_SYNONYMS = {"oesophagus": "esophagus", "gall": "gallbladder"}


def entry(name: str, about: str = "") -> str:
    """The terminology entry of a class, as `vtkSegment.SetTerminology` takes it; plain "Tissue" where it is not known.

    Parameters
    ----------
    name : of the class, for example "left kidney"
    about : what the model is for; tells what "anterior" is a part of
    """
    words = name.lower().replace("_", " ").replace("-", " ").split()
    known = [_SYNONYMS.get(word, word) for word in words]
    if {"anterior", "posterior"} & set(words) and "hippocampus" in about.lower():
        known.append("hippocampus")
    structure = next((word for word in known if word in _STRUCTURES), None)
    side = next((_SIDES[word] for word in words if word in _SIDES), "^^")
    if structure is None:
        category, kind, side = "SCT^85756007^Tissue", "SCT^85756007^Tissue", "^^"
    else:
        category = "SCT^123037004^Anatomical Structure"
        kind = f"SCT^{_STRUCTURES[structure]}^{structure.capitalize()}"
    return f"Segmentation category and type - 3D Slicer General Anatomy list~{category}~{kind}~{side}~~^^~^^"
