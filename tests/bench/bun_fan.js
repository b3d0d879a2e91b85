// SPDX-License-Identifier: MIT
// Publishes each message under Bun: on /others to all but its sender, on /all to everyone. bun_fan.js PORT
const LIMIT = 1 << 30; // of unsent bytes for each connection: nothing is dropped

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: Number(process.argv[2]),
  fetch(request, server) {
    const all = new URL(request.url).pathname === "/all";
    if (!server.upgrade(request, { data: { all } })) return new Response("WebSocket only", { status: 426 });
  },
  websocket: {
    perMessageDeflate: false,
    backpressureLimit: LIMIT,
    open(ws) {
      ws.subscribe("room");
    },
    message(ws, text) {
      if (ws.data.all) server.publish("room", text);
      else ws.publish("room", text);
    },
  },
});
