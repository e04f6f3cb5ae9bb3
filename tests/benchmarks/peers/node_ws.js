// Node's ws and JSON, the protocol of /rt/tickets and /rt/presence: node node_ws.js PORT SECRET
const http = require("node:http");
const { WebSocketServer } = require("ws");
const { emitting, verify } = require("./node_jwt.js");

const [port, secret] = process.argv.slice(2);
const rooms = new Map();
const server = http.createServer(
  emitting(({ room, event, data }) => {
    const text = JSON.stringify({ event, data });
    for (const socket of rooms.get(room) || []) socket.send(text);
  }),
);

function join(socket, room) {
  if (!rooms.has(room)) rooms.set(room, new Set());
  rooms.get(room).add(socket);
  socket.rooms.push(room);
}

new WebSocketServer({ server, perMessageDeflate: false }).on("connection", (socket) => {
  socket.rooms = [];
  socket.on("message", (text) => {
    const { event, data, id } = JSON.parse(text);
    if (event === "connect") {
      const claims = verify(data.token, secret);
      if (!claims) return socket.close(4401);
      for (const room of [`user:${claims.sub}`, `role:${claims.role}`, `team:${claims.teamId}`]) join(socket, room);
      socket.send(JSON.stringify({ event: "connect", data: { sid: claims.sub } }));
    } else socket.send(JSON.stringify({ ack: id, data: { ok: true } }));
  });
  socket.on("close", () => {
    for (const room of socket.rooms) {
      rooms.get(room).delete(socket);
      if (!rooms.get(room).size) rooms.delete(room);
    }
  });
});
server.listen(port, "127.0.0.1");
