// The stock client, many at a time, in one process: commands are JSON lines on stdin, what happens JSON lines on stdout.
//
// in:  {"op":"open","client":1,"url","namespaces":["/tickets"],"auth":{…},"options":{…}}
//      {"op":"auth","client":1,"auth":{…}}                   what the client sends at its next CONNECT
//      {"op":"emit","client":1,"namespace","event","args":[…]}
//      {"op":"call","client":1,"namespace","event","args":[…],"call":7,"timeout":5000}
//      {"op":"connect","client":1,"namespace"}               again, after a disconnect
//      {"op":"disconnect","client":1,"namespace"}            goodbye to one namespace; the last one ends the connection
//      {"op":"strict_mode","client":1,"namespace"}           connect, disconnect, connect, as React's StrictMode does
//      {"op":"engine_close","client":1}                      what the client's transport does when it fails
//      {"op":"close","client":1}
// out: {"client":1,"namespace","on":"connect"|"connect_error"|"disconnect"|"event",…}   {"client":1,"on":"transport","name"}
//      {"call":7,"args":[…]} or {"call":7,"error":"…"}
// A binary value is written {"$bytes":"<base64>"} in both directions.
"use strict";

const readline = require("node:readline");
const { Manager } = require("socket.io-client");

const clients = new Map();

function plain(value) {
  if (Buffer.isBuffer(value) || value instanceof Uint8Array) {
    return { $bytes: Buffer.from(value).toString("base64") };
  }
  if (Array.isArray(value)) return value.map(plain);
  if (value && typeof value === "object") {
    return Object.fromEntries(Object.entries(value).map(([key, item]) => [key, plain(item)]));
  }
  return value;
}

const revive = (_, value) =>
  value && typeof value === "object" && typeof value.$bytes === "string" ? Buffer.from(value.$bytes, "base64") : value;

const say = (message) => process.stdout.write(JSON.stringify(plain(message)) + "\n");

/** Return a new socket of an open client, which says what happens to it. */
function listening(client, namespace) {
  const state = clients.get(client);
  const socket = state.manager.socket(namespace, { auth: (give) => give(state.auth) });
  const tell = (on, fields) => say({ client, namespace, on, ...fields });
  socket.on("connect", () => tell("connect", { sid: socket.id, recovered: socket.recovered }));
  socket.on("connect_error", (error) =>
    tell("connect_error", { message: error.message, data: error.data, transport: error.type === "TransportError" }),
  );
  socket.on("disconnect", (reason) => tell("disconnect", { reason }));
  socket.onAny((event, ...args) => tell("event", { event, args }));
  state.sockets.set(namespace, socket);
  return socket;
}

const commands = {
  open({ client, url, namespaces, auth, options }) {
    const manager = new Manager(url, { ...options, autoConnect: false });
    const state = { manager, auth, sockets: new Map() };
    clients.set(client, state);
    manager.on("open", () => {
      say({ client, on: "transport", name: manager.engine.transport.name });
      manager.engine.on("upgrade", (transport) => say({ client, on: "transport", name: transport.name }));
    });
    for (const namespace of namespaces) listening(client, namespace).connect();
  },
  auth({ client, auth }) {
    clients.get(client).auth = auth;
  },
  emit({ client, namespace, event, args }) {
    clients.get(client).sockets.get(namespace).emit(event, ...args);
  },
  call({ client, namespace, event, args, call, timeout }) {
    const socket = clients.get(client).sockets.get(namespace);
    socket.timeout(timeout).emit(event, ...args, (error, ...answer) => {
      say(error ? { call, error: error.message } : { call, args: answer });
    });
  },
  connect({ client, namespace }) {
    clients.get(client).sockets.get(namespace).connect();
  },
  disconnect({ client, namespace }) {
    clients.get(client).sockets.get(namespace).disconnect();
  },
  strict_mode({ client, namespace }) {
    const socket = listening(client, namespace);
    socket.connect();
    socket.disconnect();
    socket.connect();
  },
  engine_close({ client }) {
    clients.get(client).manager.engine.close();
  },
  close({ client }) {
    const { manager, sockets } = clients.get(client);
    clients.delete(client);
    for (const socket of sockets.values()) {
      socket.offAny();
      socket.removeAllListeners();
      socket.disconnect();
    }
    manager.reconnection(false);
    manager._close();
  },
};

readline
  .createInterface({ input: process.stdin })
  .on("line", (line) => {
    const command = JSON.parse(line, revive);
    commands[command.op](command);
  })
  .on("close", () => process.exit(0));
