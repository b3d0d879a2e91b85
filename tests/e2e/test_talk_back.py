# SPDX-License-Identifier: MIT
"""The main job: the example script answers real clients."""
import asyncio

import websockets

from conftest import ROOT

TALK_BACK = (ROOT / "lua/examples/talk-back.lua").read_text(encoding="utf-8")


def test_python_websockets(serve):
    server = serve(TALK_BACK)

    async def talk():
        async with websockets.connect(server.url("/talk-back")) as ws:
            for word in ("hello", "HELLO", "HeLLo"):
                await ws.send(word)
                assert await ws.recv() == "Is it me you're looking for...?"
            await ws.send("good bye")
            await ws.send("hello")
            assert await ws.recv() == "Is it me you're looking for...?"
    asyncio.run(talk())
