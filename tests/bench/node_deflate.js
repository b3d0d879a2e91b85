// SPDX-License-Identifier: MIT
// Echoes on /echo, and sends each message of /all to all clients, with permessage-deflate under node's ws.
// node_deflate.js PORT LEVEL BITS (0 BITS: without compression) [none: without context takeover]
const { WebSocketServer } = require("ws");

const [port, level, bits, takeover] = process.argv.slice(2);
const none = takeover === "none";
const perMessageDeflate = bits !== "0" && {
  threshold: 1024,
  zlibDeflateOptions: { level: Number(level) },
  serverMaxWindowBits: Number(bits),
  serverNoContextTakeover: none,
  clientNoContextTakeover: none,
};
const server = new WebSocketServer({ host: "127.0.0.1", port: Number(port), perMessageDeflate });
server.on("connection", (ws, request) => {
  const all = request.url === "/all";
  ws.on("message", (data) => {
    if (!all) ws.send(data, { binary: false });
    else for (const client of server.clients) client.send(data, { binary: false });
  });
});
