// The least that verifies an HS256 token. Returns its claims, or null.
const { createHmac, timingSafeEqual } = require("node:crypto");

exports.verify = (token, secret) => {
  const [head, body, signature] = String(token).split(".");
  if (JSON.parse(Buffer.from(head, "base64url")).alg !== "HS256") return null;
  const right = createHmac("sha256", secret).update(`${head}.${body}`).digest();
  const given = Buffer.from(signature, "base64url");
  if (given.length !== right.length || !timingSafeEqual(given, right)) return null;
  const claims = JSON.parse(Buffer.from(body, "base64url"));
  return claims.exp > Date.now() / 1000 ? claims : null;
};

// Answers POST /emit with what `publish({room, event, data})` did.
exports.emitting = (publish) => (request, response) => {
  const parts = [];
  request.on("data", (part) => parts.push(part));
  request.on("end", () => {
    publish(JSON.parse(Buffer.concat(parts)));
    response.writeHead(200, { "Content-Type": "application/json" });
    response.end("{}");
  });
};
