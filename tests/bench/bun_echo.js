// SPDX-License-Identifier: MIT
// Sends each message back, under Bun: bun_echo.js PORT
const LIMIT = 1 << 30; // of unsent bytes for each connection, and of a message

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    if (!server.upgrade(request)) return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    backpressureLimit: LIMIT,
    maxPayloadLength: LIMIT,
    message(ws, message) {
      ws.send(message);
    },
  },
});
