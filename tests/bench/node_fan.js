// SPDX-License-Identifier: MIT
// Sends each message to the clients under node's ws: on /others to all but its sender, on /all to all. node_fan.js PORT
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false });
server.on("connection", (ws, request) => {
  const all = request.url === "/all";
  ws.on("message", (data) => {
    for (const client of server.clients) if (all || client !== ws) client.send(data, { binary: false });
  });
});
