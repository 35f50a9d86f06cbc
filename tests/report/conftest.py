"""A headless browser that can reach no network, and what a probe saw on a page in it."""

import json
import os
import re
import shutil
import subprocess
from html import unescape

import pytest


@pytest.fixture(scope="session")
def look(tmp_path_factory):
    """A function of a page (HTML) and a script tag: what the script wrote, as JSON, into an element `pre#probe`."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if not browser and os.environ.get("CI"):
        pytest.fail("the report's browser test needs chromium: apt-get install chromium")
    if not browser:
        pytest.skip("no chromium here: apt-get install chromium")

    def seen(html, probe):
        folder = tmp_path_factory.mktemp("page")
        written = folder / "report.html"
        written.write_text(html.replace("</title>", "</title>" + probe, 1), encoding="utf-8")
        flags = [
            "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
            "--disable-dev-shm-usage", "--host-resolver-rules=MAP * 0.0.0.0", "--virtual-time-budget=10000",
            "--window-size=1200,1600", f"--user-data-dir={folder / 'profile'}", "--dump-dom",
        ]  # fmt: skip
        done = subprocess.run([browser, *flags, written.as_uri()], capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found = re.search(r'<pre id="probe">(.*?)</pre>', done.stdout, re.DOTALL)
        assert found, "the figure was not drawn: " + done.stderr
        return json.loads(unescape(found[1]))

    return seen
