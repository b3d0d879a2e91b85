// SPDX-License-Identifier: MIT
// Sends each message back, under node's ws: node_echo.js PORT [CERT KEY], with these over TLS
const fs = require("fs");
const { WebSocketServer } = require("ws");

const [, , port, cert, key] = process.argv;
const http = cert
  ? require("https").createServer({ cert: fs.readFileSync(cert), key: fs.readFileSync(key) })
  : require("http").createServer();
const server = new WebSocketServer({ server: http, perMessageDeflate: false });
server.on("connection", (ws) => ws.on("message", (data, binary) => ws.send(data, { binary })));
http.listen({ host: "127.0.0.1", port: Number(port) });
