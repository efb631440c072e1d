"""The page of a plan, as a browser without a window reads it."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from dynatrain.planning import load_model, page, plan, topology

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
#: Puts the width of each picture, as it was decoded, where the test finds it.
PROBE = """<script>
addEventListener("load", () => {
  document.title = [...document.images].map(each => each.naturalWidth).join(" ");
});
</script>"""


def widths(text, folder):
    """Of the pictures of a page, in pixels; 0 of one that is broken."""
    path = folder / "plan.html"
    path.write_text(text.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=10000"]
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [str(BROWSER), *options, profile, "--dump-dom", path.as_uri()]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
    found = re.search("<title>([0-9 ]+)</title>", done.stdout)
    assert found is not None
    return [int(width) for width in found[1].split()]


# A picture that is broken is an empty frame; only who looks at the page would know.
@pytest.mark.skipif(BROWSER is None, reason="chromium is not installed")
@pytest.mark.parametrize("layouts", [("dp=4", "dp=2,tp=2"), ("tp=8,pp=8,dp=2", "tp=8,pp=8,dp=16")])
def test_a_browser_shows_every_picture(layouts, tmp_path):
    pytest.importorskip("matplotlib")
    model, links = load_model("llama2-7b", "adamw-bf16"), topology("dgx-h100")
    text = page(plan(*layouts, model, links), model, links)
    found = widths(text, tmp_path)
    assert len(found) == text.count("<img") == 5
    assert min(found) > 500

    broken = text.replace("base64,", "base64,AAAA", 1)
    assert widths(broken, tmp_path) == [0, *found[1:]]
