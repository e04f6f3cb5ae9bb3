// @ts-check
// A node's state and connections, in the words that all pages use.
import { connectionsUrl, small, tag } from "./parts.js";
import { h } from "./dom.js";
import { ms, num } from "./format.js";

const MAX_LAG_MS = 1000; // at this lag, /readyz reports the node as not ready
const SOME_LAG_MS = 250;
const MAX_SKEW_MS = 1000; // as in the server's log

/** Return {is, word, why: […]}. A node whose /readyz answers 503 is "not ready", and `why` lists the reasons. */
export function nodeState(node) {
	const why = wrong(node);
	const some = worrying(node);
	const is = why.length ? "bad" : node.drain || some.length ? "warn" : "good";
	const word = node.drain ? (node.drain.done ? "drained" : "draining") : why.length ? "not ready" : "ready";
	return { is, word, why: [...why, ...(why.length ? some.filter((text) => String(text).startsWith("clock")) : some)] };
}

/** Problems that do not stop the node from accepting clients. */
function worrying({ loopLagMs, clockSkewMs = 0 }) {
	const how = clockSkewMs > 0 ? "ahead of" : "behind";
	return [loopLagMs > SOME_LAG_MS && `loop lag ${ms(loopLagMs)}`, Math.abs(clockSkewMs) > MAX_SKEW_MS && `clock ${num(Math.round(Math.abs(clockSkewMs) / 1000))} s ${how} Valkey's`].filter(Boolean);
}

/** Why the node is not ready, apart from a drain, which is intended. */
function wrong({ checks, hears, loopLagMs }) {
	if (checks?.length) return checks.filter(({ name, ok }) => !ok && name !== "drain").map(({ name, why }) => (why ? `${name}: ${why}` : name));
	return [!hears && "does not receive the other nodes' events", loopLagMs > MAX_LAG_MS && `the event loop was blocked for ${ms(loopLagMs)}`].filter(Boolean);
}

export function stateDot(node) {
	const { is, word, why } = nodeState(node);
	return h("span", h("span.dot.state", { data: { is } }, word), why.length ? small(why.join("; ")) : "");
}

export const takesClients = (node) => !node.drain && nodeState(node).is !== "bad";
export const leader = (node) => (node.leads ? tag("leader") : "");

/** Count the connections of nodes, including the demo's robots. `kinds` describes those that are not websockets. */
export function connectionsOf(...nodes) {
	const by = (kind) => nodes.reduce((sum, node) => sum + (node.connections[kind] ?? 0), 0);
	const total = nodes.reduce((sum, node) => Object.values(node.connections).reduce((a, b) => a + b, sum), 0);
	const kinds = [["polling", "by polling"], ["demo", "by demo robots"]].filter(([kind]) => by(kind)).map(([kind, words]) => `${num(by(kind))} ${words}`);
	return { total, kinds: kinds.join(", ") };
}

export const connectionsLink = (node) => h("a", { href: connectionsUrl({ node: node.node }) }, num(connectionsOf(node).total));
