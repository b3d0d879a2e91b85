// SPDX-License-Identifier: MIT
// Sends each message back, under Bun: bun_echo.js PORT [CERT KEY], with these over TLS
const LIMIT = 1 << 30; // of unsent bytes for each connection, and of a message
const [, , port, cert, key] = process.argv;

Bun.serve({
  hostname: "127.0.0.1",
  port: Number(port),
  tls: cert ? { cert: Bun.file(cert), key: Bun.file(key) } : undefined,
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
