// Node's Socket.IO: node node_socketio.js PORT SECRET
const http = require("node:http");
const { Server } = require("socket.io");
const { emitting, verify } = require("./node_jwt.js");

const [port, secret] = process.argv.slice(2);
const server = http.createServer();
const io = new Server(server, { transports: ["polling", "websocket"], pingInterval: 25000, pingTimeout: 30000 });

for (const name of ["/tickets", "/chat", "/notifications", "/presence", "/dashboard"]) {
  const namespace = io.of(name);
  namespace.use((socket, next) => {
    const claims = verify(socket.handshake.auth.token, secret);
    socket.data.user = claims;
    next(claims ? undefined : new Error("AUTH_TOKEN_INVALID"));
  });
  namespace.on("connection", (socket) => {
    const { sub, role, teamId } = socket.data.user;
    socket.join([`user:${sub}`, `role:${role}`, `team:${teamId}`]);
    socket.on("presence:unsubscribe", (ask, ack) => ack({ ok: true }));
  });
}
// Socket.IO leaves requests of other paths to listeners that were there before it.
server.on("request", (request, response) => {
  if (request.url === "/emit") emitting(({ room, event, data }) => io.of("/tickets").to(room).emit(event, data))(request, response);
});
server.listen(port, "127.0.0.1");
