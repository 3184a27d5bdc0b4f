"""Pages as a reader has them: opened from disk in a headless Chromium."""

import html
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,2400",
    "--virtual-time-budget=20000",  # milliseconds of the page's own clock, which does not wait
    "--dump-dom",
)
HARNESS = """
<script>
const sleep = milliseconds => new Promise(resolve => setTimeout(resolve, milliseconds));
const report = result => {
  const place = document.createElement("pre");
  place.id = "result";
  place.textContent = JSON.stringify(result);
  document.body.replaceChildren(place);
};
const act = async () => { %s };
addEventListener("load", () => act().then(report, error => report({ error: String(error) })));
</script>
"""


def act(page: pathlib.Path, script: str, tmp_path: pathlib.Path) -> Any:
    """What the body of an async JavaScript function returns that runs in a copy of the page.

    Skips the test where there is no Chromium.
    """
    found = [path for path in map(shutil.which, NAMES) if path]
    if not found:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is on the PATH")
    copy = tmp_path / "acted.html"
    copy.write_text(page.read_text("utf-8") + HARNESS % script, "utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    done = subprocess.run(
        [found[0], *FLAGS, profile, copy.as_uri()], capture_output=True, text=True, timeout=120
    )
    result = re.search(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert result, done.stderr[-2000:]
    return json.loads(html.unescape(result[1]))
