"""README.md of a model package: what `model.json` says, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mambaseg.models.model import Model

__all__ = ["card"]


def card(model: Model) -> str:
    """Markdown text generated from the model's description."""
    plan = model.plan
    spacing = " x ".join(f"{size:g}" for size in plan.spacing) if plan.spacing else "the picture's own"
    lines = [
        f"# {model.title}", "", model.description, "",
        f"    mambaseg segment IMAGE -m {model.name}", "",
        "| | |", "| --- | --- |",
        _row("Input", f"{plan.ndim}-D, channels: {', '.join(model.channels)}"),
        _row("Output", f"{model.kind}: {', '.join(model.classes)}"),
        _row("Network", f"{model.network}, patch {' x '.join(str(size) for size in plan.patch_size)}"),
        _row("Voxel size", spacing),
        _row("Licence of the weights", model.licence),
    ]
    if model.parent:
        lines.append(_row("Fine-tuned from", f"{model.parent['name']} ({model.parent['checksum'][:12]})"))
    if model.previous:
        lines.append(_row("Cascade", "the model in the folder previous finds labels first, which the network sees"))
    lines += [_row("Adapter", f"{adapter.name}, {'on' if adapter.is_on else 'off'}") for adapter in model.adapters]
    lines += _section("Held-out scores", model.scores) + _section("Training", model.training)
    return "\n".join(lines) + "\n"


def _row(name: str, value: str) -> str:
    return f"| {name} | {_escaped(value)} |"


def _section(title: str, values: dict[str, Any]) -> list[str]:
    return ["", f"## {title}", "", *_bullets(values)] if values else []


def _bullets(value: Mapping[str, Any] | Sequence[Any], indent: str = "") -> list[str]:
    """A nested list of a record's entries."""
    pairs = list(value.items()) if isinstance(value, Mapping) else [("", item) for item in value]
    lines: list[str] = []
    for name, item in pairs:
        label = f"{_escaped(str(name).replace('_', ' '))}: " if name else ""
        if isinstance(item, dict | list | tuple) and item:
            lines += [f"{indent}- {label}".rstrip(), *_bullets(item, indent + "  ")]
        else:
            lines.append(f"{indent}- {label}{_escaped(_shown(item))}")
    return lines


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    """Text that can break neither the table nor a page that shows it as HTML."""
    return text.replace("|", "/").replace("<", "&lt;").replace("\n", " ")
