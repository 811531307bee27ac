"""What `model.json` may hold: entries, types and ranges, checked before anything is built from them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable
from typing import Any

from mambaseg._errors import ModelError
from mambaseg.models.domains import LENGTH, Signatures
from mambaseg.orientation import is_orientation
from mambaseg.plan import Plan
from mambaseg.plan.plan import FITS

__all__ = ["KINDS", "OPTIONAL", "SCHEMA_VERSION", "check", "check_network", "plan", "signatures"]

SCHEMA_VERSION = 1
KINDS = ("classes", "regions", "instances")
_NORMALISATIONS = ("ct", "zscore", "percentile", "rescale_to_0_1", "rgb_to_0_1", "nonorm", "minmax_255",
                   "imagenet")

# A package may come from a stranger: these bounds keep a description from asking for more than any machine has.
_MAX_PATCH_VOXELS = 2**27
_MAX_CLASSES = 4096
_MAX_CHANNELS = 256
_MAX_CONFIG_NUMBER = 65536
_MAX_DEPTH = 64
_MAX_NESTING = 6
_MAX_MEMBERS = 32
_MAX_SIGNATURES = 1024

Check = Callable[[Any], bool]


def _is_int(value: Any, low: int = 0, high: int = _MAX_CONFIG_NUMBER) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_text(value: Any, length: int = 10_000) -> bool:
    return isinstance(value, str) and len(value) <= length


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[\w.()+-]{1,100}", value) is not None


def _is_list(value: Any, item: Check, low: int = 0, high: int = 32) -> bool:
    return isinstance(value, list | tuple) and low <= len(value) <= high and all(item(entry) for entry in value)


def _is_plain(value: Any, nesting: int = 0) -> bool:
    """Whether a value is made of texts, finite numbers, truths, None, lists and dictionaries only."""
    if nesting > _MAX_NESTING:
        return False
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(entry, nesting + 1) for key, entry in value.items())
    if isinstance(value, list | tuple):
        return all(_is_plain(entry, nesting + 1) for entry in value)
    return value is None or isinstance(value, str | bool) or _is_number(value)


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and _is_plain(value)


def _is_config(value: Any) -> bool:
    """Whether a network's configuration is plain and no number in it is absurd; depths are bounded more tightly."""
    if not _is_record(value):
        return False
    return all(_numbers_below(entry, _MAX_DEPTH if re.search("block|depth|layer|stage", key) and "features" not in key
                              else _MAX_CONFIG_NUMBER) for key, entry in value.items())


def _numbers_below(value: Any, bound: float) -> bool:
    if isinstance(value, dict):
        return _is_config(value)
    if isinstance(value, list | tuple):
        return len(value) <= _MAX_DEPTH and all(_numbers_below(entry, bound) for entry in value)
    return not _is_number(value) or abs(value) <= bound


def _is_parent(value: Any) -> bool:
    return value is None or (isinstance(value, dict) and set(value) == {"name", "checksum"}
                             and all(_is_text(entry, 200) for entry in value.values()))


def _is_member(value: Any) -> bool:
    """Whether a value describes a network of an ensemble; its plan is checked with that of the model."""
    return (isinstance(value, dict) and set(value) >= {"network", "network_config", "checksum"}
            and all(name in _MEMBER and _MEMBER[name](entry) for name, entry in value.items()))


def _is_adapter(value: Any) -> bool:
    """Whether a value describes a small change of what a model answers; see `mambaseg.models.adapters`."""
    return (isinstance(value, dict) and {"name", "checksum", "is_on", "training"} <= set(value)
            and set(value) <= {"name", "checksum", "is_on", "training", "network", "taught"}
            and _is_name(value["name"]) and isinstance(value["is_on"], bool)
            and all(_ENTRIES[name][0](value[name]) for name in ("checksum", "training"))
            and _ENTRIES["checksum"][0](value.get("network", value["checksum"]))
            and _are_signatures(value.get("taught", ())))


def _are_signatures(value: Any) -> bool:
    """Whether a value is a list of signatures of pictures; see `mambaseg.models.domains`."""
    return _is_list(value, lambda row: _is_list(row, _is_number, LENGTH, LENGTH), 0, _MAX_SIGNATURES)


def signatures(value: Any) -> Signatures:
    """Checked signatures as `Model` keeps them."""
    return tuple(tuple(map(float, row)) for row in value)


def _are_labels(value: Any) -> bool:
    return _is_list(value, lambda label: _is_int(label, 1), 1, _MAX_CLASSES)


_ENTRIES: dict[str, tuple[Check, str]] = {
    "schema_version": (lambda value: _is_int(value, 1), "a whole number"),
    "name": (_is_name, "a short name of letters, digits and -_.()+"),
    "title": (lambda value: _is_text(value, 200), "a text"),
    "description": (_is_text, "a text"),
    "network": (_is_name, "the name of a network"),
    "network_config": (_is_config, "settings of a network within sane bounds"),
    "plan": (lambda value: isinstance(value, dict), "a plan"),
    "classes": (lambda value: _is_list(value, lambda name: _is_text(name, 200), 2, _MAX_CLASSES),
                "a list of two or more names, background first"),
    "channels": (lambda value: _is_list(value, lambda name: _is_text(name, 200), 1, _MAX_CHANNELS), "a list of names"),
    "kind": (lambda value: value in KINDS, "one of " + ", ".join(KINDS)),
    "licence": (_is_text, "a text"),
    "decoder": (lambda value: value is None or _is_record(value), "settings of the decoder or null"),
    "training": (_is_record, "a record of plain values"),
    "scores": (_is_record, "a record of plain values"),
    "parent": (_is_parent, "name and checksum of a model, or null"),
    "mirror_axes": (lambda value: _is_list(value, lambda axis: _is_int(axis, 0, 2), 0, 3), "a list of axes"),
    "checksum": (lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
                 "a SHA-256 of 64 hexadecimal digits"),
    "members": (lambda value: _is_list(value, _is_member, 0, _MAX_MEMBERS),
                f"a list of at most {_MAX_MEMBERS} networks, each with its settings and checksum"),
    "regions": (lambda value: _is_list(value, _are_labels, 0, _MAX_CLASSES), "a list of label values for each region"),
    "region_order": (lambda value: value in ([], ()) or _are_labels(value), "a label value for each region"),
    "keep_largest": (lambda value: _is_list(value, _are_labels, 0, _MAX_CLASSES), "a list of groups of label values"),
    "adapters": (lambda value: _is_list(value, _is_adapter), "a list of adapters, each with its name and checksum"),
    "trained_on": (_are_signatures, f"a list of signatures of pictures, {LENGTH} numbers each"),
    "taught": (_are_signatures, f"a list of signatures of pictures, {LENGTH} numbers each"),
    "previous": (lambda value: value == "" or _ENTRIES["checksum"][0](value), "a SHA-256 of 64 hexadecimal digits"),
}
_MEMBER: dict[str, Check] = {name: _ENTRIES[name][0] for name in ("network", "network_config", "checksum", "plan",
                                                                 "mirror_axes", "decoder")}
_MEMBER["group"] = lambda value: _is_int(value, 0, _MAX_MEMBERS)
_MEMBER["is_former"] = lambda value: isinstance(value, bool)
_MEMBER["taught"] = _are_signatures
# Entries that came after the first models were written
OPTIONAL = ("members", "regions", "region_order", "keep_largest", "adapters", "trained_on", "taught", "previous")
_PLAN_DEFAULTS: dict[str, Any] = {"fit": "windows", "usual_spacing": None, "orientation": ""}


def check(values: Any, where: str) -> dict[str, Any]:
    """The entries of `model.json`, lists as tuples where the model keeps tuples.

    Raises
    ------
    ModelError : not a dictionary, another schema version, or an entry is missing, unknown or wrong
    """
    if not isinstance(values, dict):
        raise ModelError(f"{where} is not a model description; get a fresh copy of the model.")
    version = values.get("schema_version")
    if _is_int(version, SCHEMA_VERSION + 1):
        raise ModelError(f"{where} has schema version {version}, but this program reads {SCHEMA_VERSION}; "
                         "update mambaseg.")
    values = {name: "" if name == "previous" else [] for name in OPTIONAL} | values
    _same_keys(values, set(_ENTRIES), where)
    for name, (is_right, expected) in _ENTRIES.items():
        if not is_right(values[name]):
            raise _wrong(where, name, values[name], expected)
    lists = ("classes", "channels", "mirror_axes", "region_order")
    groups = {name: tuple(tuple(group) for group in values[name]) for name in ("regions", "keep_largest")}
    groups |= {name: signatures(values[name]) for name in ("trained_on", "taught")}
    return {name: tuple(value) if name in lists else value for name, value in values.items()} | groups


def check_network(network: Any, config: Any, where: str) -> None:
    """Refuse the name of a network, or settings, that are wrong or absurd; see `check`."""
    for name, value in (("network", network), ("network_config", config)):
        is_right, expected = _ENTRIES[name]
        if not is_right(value):
            raise _wrong(where, name, value, expected)


def plan(values: dict[str, Any], channels: tuple[str, ...], where: str) -> Plan:
    """The plan in `model.json`, every entry checked against the number of axes and channels."""
    known = {item.name for item in dataclasses.fields(Plan)}
    values = _PLAN_DEFAULTS | values
    _same_keys(values, known, where, "plan.")
    ndim = values["ndim"]
    if ndim not in (2, 3):
        raise _wrong(where, "plan.ndim", ndim, "2 or 3")
    for name, (is_right, expected) in _plan_entries(ndim, len(channels)).items():
        if not is_right(values[name]):
            raise _wrong(where, f"plan.{name}", values[name], expected)
    if math.prod(values["patch_size"]) > _MAX_PATCH_VOXELS:
        raise _wrong(where, "plan.patch_size", values["patch_size"], f"at most {_MAX_PATCH_VOXELS:,} voxels")
    return Plan.from_json(values)


def _plan_entries(ndim: int, n_channels: int) -> dict[str, tuple[Check, str]]:
    def sizes(value: Any) -> bool:
        return _is_list(value, lambda size: _is_int(size, 1), ndim, ndim)

    def per_stage(value: Any) -> bool:
        return _is_list(value, sizes, 1)

    def voxel_size(value: Any) -> bool:
        return value is None or _is_list(value, lambda size: _is_number(size) and size > 0, ndim, ndim)

    def counts(value: Any) -> bool:
        return _is_list(value, lambda count: _is_int(count, 0, _MAX_DEPTH))

    def per_channel(value: Any, item: Check) -> bool:
        return _is_list(value, item, n_channels, n_channels)

    return {
        "patch_size": (sizes, f"{ndim} whole numbers"),
        "batch_size": (lambda value: _is_int(value, 1), "a whole number"),
        "features_per_stage": (lambda value: _is_list(value, lambda count: _is_int(count, 1), 1), "whole numbers"),
        "kernel_sizes": (per_stage, f"{ndim} whole numbers per stage"),
        "strides": (per_stage, f"{ndim} whole numbers per stage"),
        "n_blocks_encoder": (counts, "whole numbers"),
        "n_blocks_decoder": (counts, "whole numbers"),
        "transpose": (lambda value: _is_list(value, _is_int, 2, 3) and sorted(value) == list(range(len(value))),
                      "an order of the axes"),
        "spacing": (voxel_size, f"null or {ndim} positive numbers"),
        "usual_spacing": (voxel_size, f"null or {ndim} positive numbers"),
        "unit": (lambda value: value in ("mm", "um"), "mm or um"),
        "normalisation": (lambda value: per_channel(value, lambda name: name in _NORMALISATIONS),
                          f"one of {', '.join(_NORMALISATIONS)} for each of the {n_channels} channels"),
        "use_mask_for_norm": (lambda value: per_channel(value, lambda flag: isinstance(flag, bool)),
                              f"true or false for each of the {n_channels} channels"),
        "intensities": (lambda value: not value or per_channel(value, _is_record), "statistics per channel"),
        "crop_to_nonzero": (lambda value: isinstance(value, bool), "true or false"),
        "batch_dice": (lambda value: isinstance(value, bool), "true or false"),
        "fit": (lambda value: value in FITS, "one of " + ", ".join(FITS)),
        "orientation": (lambda value: value == "" or is_orientation(value), 'empty or three letters such as "RAS"'),
    }


def _same_keys(values: dict[str, Any], expected: set[str], where: str, prefix: str = "") -> None:
    missing, unknown = sorted(expected - set(values)), sorted(set(values) - expected)
    if missing:
        raise ModelError(f'{where} lacks the entry "{prefix}{missing[0]}"; get a fresh copy of the model.')
    if unknown:
        raise ModelError(f'{where} has the unknown entry "{prefix}{unknown[0][:60]}"; get a fresh copy of the model '
                         "or update mambaseg.")


def _wrong(where: str, name: str, value: Any, expected: str) -> ModelError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:57] + "..."
    return ModelError(f'{where}: "{name}" is {shown}, but {expected} was expected; get a fresh copy of the model.')
