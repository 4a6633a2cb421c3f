"""Headless Chromium for the tests of HTML pages: opens a page without a network, runs a script in it, returns the result."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


def needs_chromium(test: Any) -> Any:
    """Mark a test that starts Chromium, which takes seconds each time: it is slow, and skipped without Chromium."""
    return pytest.mark.slow(pytest.mark.skipif(CHROMIUM is None, reason="needs chromium")(test))


#: Installed by `npm install --no-package-lock --prefix tests/browser`.
AXE = Path(__file__).parents[1] / "browser/node_modules/axe-core/axe.min.js"
needs_axe = pytest.mark.skipif(not AXE.exists(), reason="needs axe-core (tests/browser/package.json)")

#: Collects what goes wrong in the page before any of its scripts runs.
_WATCH = """<script>window.problems = [];
addEventListener("error", (e) => problems.push(e.message));
addEventListener("unhandledrejection", (e) => problems.push(String(e.reason)));
addEventListener("securitypolicyviolation", (e) => problems.push(`${e.violatedDirective}: ${e.blockedURI}`));
</script>"""
#: Writes a JSON result where `--dump-dom` shows it.
_REPORT = """<script>(async () => {
  let result;
  try { result = await (async () => { %s })(); } catch (error) { problems.push(String(error)); }
  const out = document.createElement("pre");
  out.id = "result-of-test";
  out.textContent = JSON.stringify({result, problems});
  document.body.replaceChildren(out);
})();</script></body>"""


def open_page(html, script, directory, *, width=1400, height=1000, fragment="", arguments=()):
    """Return what the body of an async JavaScript function returns in a page, after asserting that nothing went wrong.

    Args:
        html: the page.
        script: the body of the function.
        directory: directory for the page and the browser's profile.
        width: width of the window.
        height: its height.
        fragment: fragment of the address, such as ``"#S3"``.
        arguments: further arguments of the browser.
    """
    path = Path(directory) / "page.html"
    assert html.count("</body>") == 1
    text = html.replace("<head>", "<head>" + _WATCH, 1).replace("</body>", _REPORT.replace("%s", script))
    path.write_text(text, encoding="utf-8")
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--proxy-server=127.0.0.1:9", "--virtual-time-budget=20000",
        f"--window-size={width},{height}", f"--user-data-dir={directory}/profile", *arguments, "--dump-dom",
        path.resolve().as_uri() + fragment,
    ]  # fmt: skip
    dom = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    match = re.search(r'<pre id="result-of-test">(.*?)</pre>', dom, re.DOTALL)
    assert match, dom[-2000:]
    answer = json.loads(unescape(match[1]))
    assert answer["problems"] == []
    return answer.get("result")


def axe(html, directory, **options):
    """Return the violations that axe finds in a page with everything unfolded, one text per rule."""
    script = AXE.read_text(encoding="utf-8")
    assert "</body>" not in script and "</script" not in script
    body = """
      for (const details of document.querySelectorAll("details")) details.open = true;
      %s
      const found = await axe.run(document, {resultTypes: ["violations"]});
      return found.violations.map((v) => `${v.id}: ${v.help}: ${v.nodes.slice(0, 3).map((n) => n.html.slice(0, 150))}`);
    """
    return open_page(html, body.replace("%s", script), directory, **options)
