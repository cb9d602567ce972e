"""A real browser for the pages that begira writes: Chromium without a window, spoken to over its debugging protocol."""
from __future__ import annotations

import asyncio
import base64
import json
import shutil
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Page:
    """One open page. `do` sends a command of the protocol, `js` evaluates an expression."""

    def __init__(self, socket: Any):
        self.socket, self.number = socket, 0

    async def do(self, method: str, **parameters: Any) -> dict[str, Any]:
        self.number += 1
        await self.socket.send_str(json.dumps({"id": self.number, "method": method, "params": parameters}))
        while True:
            answer = json.loads((await self.socket.receive(timeout=30)).data)
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    async def js(self, expression: str) -> Any:
        """The value of an expression; an exception in it fails the test."""
        answer = await self.do("Runtime.evaluate", expression=expression, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    async def open(self, path: Path) -> None:
        await self.do("Page.navigate", url=path.absolute().as_uri())
        while await self.js("document.readyState") != "complete" or await self.js("location.protocol") != "file:":
            await asyncio.sleep(0.05)

    async def press(self, key: str) -> None:
        for kind in ("keyDown", "keyUp"):
            await self.do("Input.dispatchKeyEvent", type=kind, key=key)

    async def picture(self, path: Path, dark: bool = False, width: int = 1000, height: int = 800) -> None:
        """A screenshot, for people to look at."""
        await self.do("Emulation.setEmulatedMedia",
                      features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        await self.do("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1,
                      mobile=False)
        path.write_bytes(base64.b64decode((await self.do("Page.captureScreenshot"))["data"]))


@asynccontextmanager
async def browser(folder: Path):
    """A page of a fresh browser whose downloads go to `folder`."""
    import aiohttp

    profile = folder / "profile"
    process = subprocess.Popen(
        [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-port=0",
         "--disable-dev-shm-usage", f"--user-data-dir={profile}", "about:blank"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = profile / "DevToolsActivePort"
        for _ in range(600):
            if port.exists() and port.read_text().count("\n"):
                break
            await asyncio.sleep(0.05)
        address = f"http://127.0.0.1:{port.read_text().splitlines()[0]}/json/list"
        async with aiohttp.ClientSession() as session:
            pages = await (await session.get(address)).json()
            target = next(page for page in pages if page["type"] == "page")
            async with session.ws_connect(target["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                page = Page(socket)
                await page.do("Page.enable")
                await page.do("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(folder))
                yield page
    finally:
        process.kill()
        process.wait()
