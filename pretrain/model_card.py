"""The model card of a release: model_card.md filled from its config.json, under the header that model hubs read."""

from __future__ import annotations

from pathlib import Path
from string import Template
from typing import Any

from configs import UserError

UNKNOWN = "unknown"
HUB_LICENSES = {
    *(
        "apache-2.0",
        "mit",
        "bsd-2-clause",
        "bsd-3-clause",
        "isc",
        "mpl-2.0",
        "gpl-2.0",
        "gpl-3.0",
        "lgpl-3.0",
        "agpl-3.0",
    ),
    *("cc0-1.0", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nc-nd-4.0"),
    *("openrail", "openrail++", "bigscience-openrail-m", "eupl-1.1", "odc-by", "odbl", "unlicense", UNKNOWN),
}
"""Those of https://huggingface.co/docs/hub/repositories-licenses that suit weights; any other is ``other`` with a name."""


def model_card(about: dict[str, Any], parameters: int) -> str:
    """Markdown. about: config.json of the release; parameters: how many numbers its encoder has."""
    import yaml

    training, model = about["training"], about["model"]
    data, losses = training["data"], training["losses"]
    settings = {"model": model, "training": training["settings"]}
    return Template((Path(__file__).parent / "model_card.md").read_text()).substitute(
        header=yaml.safe_dump(_header(about), sort_keys=False),
        license=_license(about["license"]),
        parameters=f"{parameters / 1e6:.1f}",
        modalities=", ".join(("video", *model["streams"])),
        start={
            "given": "weights that were given to it (a published VideoMAE or another release, whose terms hold on)",
            "random": "random weights",
        }[training["start"]],
        **{name: data[name] for name in ("recordings", "clips", "hours", "people")},
        **{name: model[name] for name in ("dim", "layers", "heads", "frame_rate", "image_height", "image_width")},
        **{name: training[name] for name in ("step", "batch", "averaged")},
        streams=_rows(data["streams"].items()),
        losses=_rows((name, f"{first:.4f}", f"{last:.4f}") for name, (first, last) in losses.items()),
        prepared=_rows(about["preprocessing"].items()),
        settings=yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100).strip(),
        digests="\n".join(f"{digest}  {name}" for name, digest in data.get("shards", {}).items())
        or "not recorded: the run is older than they are",
    )


def _header(about: dict[str, Any]) -> dict[str, Any]:
    """The metadata of huggingface.co/docs/hub/model-cards."""
    name = about["license"]
    named = {"license": name} if name in HUB_LICENSES else {"license": "other", "license_name": name}
    modalities = ["video", *about["model"]["streams"]]
    tags = [*modalities, "self-supervised", "masked-autoencoder", "human-interaction"]
    return {"library_name": "kinesic", **named, "pipeline_tag": "feature-extraction", "tags": tags}


def _license(name: str) -> str:
    if name == UNKNOWN:
        return "None was named when this release was written: ask whoever gave it to you before you use it."
    return f"`{name}`."


def _rows(rows: Any) -> str:
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def license_of(card: Path) -> str:
    """The licence that a card names in its header. Raises UserError for a header that a hub could not read."""
    import yaml

    _, _, rest = card.read_text(errors="replace").partition("---\n")
    text, end, _ = rest.partition("\n---\n")
    try:
        header = yaml.safe_load(text) if end else None
    except yaml.YAMLError as error:
        raise UserError(f"{card}: its header is no YAML: {' '.join(str(error).split())[:200]}") from None
    if not isinstance(header, dict) or header.get("library_name") != "kinesic":
        raise UserError(f"{card}: no model card of kinesic's: its header names no library_name kinesic")
    name = header.get("license", UNKNOWN)
    return str(header.get("license_name", UNKNOWN) if name == "other" else name)
