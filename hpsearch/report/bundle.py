"""Vega, Vega-Lite and vega-embed as one script to put into a page, so that it needs no network."""

import uuid
from importlib.metadata import version
from pathlib import Path

from greenprune_core.home import cache_folder

VEGA_LITE = "6.4"
"""The release that the figures are written for, among those that vl-convert carries."""


def javascript_bundle() -> str:
    """Return the script (about 0.9 MB); it puts `vega`, `vegaLite` and `vegaEmbed` into the window.

    vl-convert puts it together in about a second, so it is kept in the user's cache, named after the versions.
    """
    cached = cache_folder() / f"vega-{version('vl-convert-python')}-{VEGA_LITE}.js"
    try:
        return cached.read_text(encoding="utf-8")
    except OSError:
        pass
    import vl_convert

    script: str = vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]
    if "</script" in script:
        raise ValueError(
            "a script to be put into a page must not close its element; take another release of vl-convert"
        )
    _keep(cached, script)
    return script


def _keep(target: Path, text: str) -> None:
    aside = target.with_name(f"{target.name}.{uuid.uuid4().hex}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.write_text(text, encoding="utf-8")
        aside.replace(target)
    except OSError:
        # a read-only home costs a second per report, nothing else
        aside.unlink(missing_ok=True)
