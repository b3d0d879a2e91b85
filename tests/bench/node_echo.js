// SPDX-License-Identifier: MIT
// Sends each message back, under node's ws: node_echo.js PORT
const { WebSocketServer } = require("ws");

const server = new WebSocketServer({ host: "127.0.0.1", port: Number(process.argv[2]), perMessageDeflate: false });
server.on("connection", (ws) => ws.on("message", (data, binary) => ws.send(data, { binary })));
