// @ts-check
// Tables of connections, and disconnecting them.
import { api, part, query } from "./api.js";
import { tool } from "./commands.js";
import { act } from "./dialog.js";
import { h } from "./dom.js";
import { ago, at, bytes, num } from "./format.js";
import { operator } from "./me.js";
import { button, counted, people, person, room, small, tag } from "./parts.js";
import { newRevocation } from "./refusals.js";
import { table } from "./table.js";

const RECONNECT = { name: "reconnect", label: "Let clients reconnect", type: "check", help: "Clients reconnect by themselves. Otherwise they stay disconnected." };

/** @type {[RegExp, string][]} */
const BROWSERS = [[/Edg\/(\d+)/, "Edge"], [/OPR\/(\d+)/, "Opera"], [/Firefox\/(\d+)/, "Firefox"], [/Chrome\/(\d+)/, "Chrome"], [/Version\/(\d+).*Safari/, "Safari"]];
/** @type {[RegExp, string][]} */
const SYSTEMS = [[/iPhone|iPad/, "iOS"], [/Android/, "Android"], [/Windows/, "Windows"], [/Mac OS/, "macOS"], [/Linux/, "Linux"]];

/** Show a browser as "Firefox 143, Linux", any other client by its user agent. */
function agent({ agent: text }) {
	const [pattern, browser] = BROWSERS.find(([one]) => one.test(text)) ?? [];
	const [, system] = SYSTEMS.find(([one]) => one.test(text)) ?? [];
	const short = text.startsWith("Mozilla/") && browser ? [`${browser} ${text.match(pattern)?.[1]}`, system].filter(Boolean).join(", ") : text;
	return h("span.clip", { title: text }, short || "no user agent");
}
const names = (one) => h("span.tags", one.namespaces.map((name) => tag(name)));

/** @param {{sort?: string, onsort?: (name: string) => void, of?: string}} options */
export function connectionTable({ sort, onsort, of = "" } = {}) {
	const columns = [
		{ label: "User", cell: (one) => person(one.user, one.role), sort: "user", name: true, keep: true },
		{ label: "From", cell: (one) => [one.ip, small(agent(one))], keep: true },
		{ label: "Transport", cell: (one) => [one.transport ?? "–", small(one.protocol)], fix: true, keep: true },
		{ label: "Namespaces", cell: names },
		{ label: "Node", cell: (one) => one.node },
		{ label: "Connected", cell: (one) => ago(one.connectedAt), fix: true, sort: "connected", keep: true },
		{ label: "Last seen", cell: (one) => ago(one.lastSeenAt), fix: true, sort: "seen", wide: true },
		{ label: "In / out", cell: (one) => `${num(one.eventsIn)} / ${num(one.eventsOut)}`, num: true, title: "Events from the client, and messages to it" },
		{ label: "Outbox", cell: (one) => bytes(one.outboxBytes), num: true, sort: "outbox", title: "Waiting for the client to read" },
		{ label: "Dropped", cell: (one) => num(one.dropped), num: true, sort: "dropped", title: "Volatile events dropped because the client was too slow", wide: true },
	];
	const kick = { label: "", cell: (one) => button("Kick", () => disconnectOne(one), { danger: true, label: `Kick ${one.user?.id ?? one.sid}` }) };
	return table({
		label: "Connections",
		key: (one) => one.sid,
		sort, onsort,
		empty: of ? `${of} is not connected.` : "No connection matches. Clients appear here as soon as they connect.",
		detail,
		columns: [...(of ? columns.slice(1) : columns), operator(() => kick)].filter(Boolean),
	});
}

function detail(one) {
	return h("dl.facts",
		h("dt", "Connection"), h("dd", h("code", one.sid)),
		session(one),
		h("dt", "Node"), h("dd", one.node),
		h("dt", "Team"), h("dd", one.teamId || "–"),
		h("dt", "User agent"), h("dd", one.agent || "–"),
		h("dt", "Connected"), h("dd", at(one.connectedAt)),
		one.sockets.map((socket) => [
			h("dt", socket.namespace),
			h("dd", h("div.rooms", socket.rooms.map((name) => room(name, socket.namespace)), socket.roomCount > socket.rooms.length && `and ${num(socket.roomCount - socket.rooms.length)} more`), small("socket ", h("code", socket.sid))),
		]),
	);
}

/** The session of the connection's token, with a button to revoke it; empty if the token has none. */
function session({ sessionId }) {
	if (!sessionId) return [];
	return [h("dt", "Session"), h("dd", h("div.row", h("code", sessionId), operator(() => button("Revoke this session", () => newRevocation({ sessionId }), { danger: true }))))];
}

export function closedTable() {
	return table({
		label: "Closed connections",
		key: (one) => one.sid + one.closedAt,
		empty: "No closed connections. Each node keeps its newest 1,000.",
		detail: (one) => h("dl.facts", h("dt", "Connection"), h("dd", h("code", one.sid)), session(one), h("dt", "User agent"), h("dd", one.agent || "–")),
		columns: [
			{ label: "Closed", cell: (one) => at(one.closedAt), fix: true },
			{ label: "Why", cell: (one) => one.closeReason },
			{ label: "From", cell: (one) => [one.ip, small(agent(one))] },
			{ label: "Transport", cell: (one) => one.transport || "–" },
			{ label: "Namespaces", cell: names, wide: true },
			{ label: "Node", cell: (one) => one.node },
			{ label: "Connected", cell: (one) => at(one.connectedAt), wide: true },
		],
	});
}

function disconnectOne(one) {
	const path = `connections/${part(one.sid)}`;
	const who = one.user ? `${one.user.name || one.user.id} (${one.user.id})` : "This connection";
	act({
		title: "Kick this connection",
		text: `${who}, from ${one.ip} on ${one.node}.`,
		button: "Kick",
		danger: true,
		fields: [RECONNECT],
		command: ({ reason, reconnect }) => tool("kick", one.sid, { "--reason": reason, "--reconnect": reconnect }),
		async run({ reason, reconnect }) {
			const { count } = await api("DELETE", path + query({ reason, reconnect }));
			return `${people(count)} closed.`;
		},
	});
}

/** Open the dialog that disconnects all matching connections. `where`: filters of the API by name, at least one. */
export function disconnectAll(where) {
	const ask = (given, dryRun) => api("POST", "connections/disconnect", { where, reconnect: given.reconnect, reason: given.reason || "count", dryRun });
	const flags = Object.fromEntries(Object.entries(where).map(([name, value]) => [`--${name}`, value]));
	act({
		title: "Disconnect all matching connections",
		text: Object.entries(where).map(([name, value]) => `${name} ${value}`).join(", "),
		button: "Disconnect",
		danger: true,
		fields: [RECONNECT],
		count: async (given) => counted(await ask(given, true)),
		command: ({ reason, reconnect }) => tool("kick", { ...flags, "--reason": reason, "--reconnect": reconnect }),
		async run(given) {
			const { count } = await ask(given, false);
			return `${people(count)} closed.`;
		},
	});
}

export function disconnectUser(id, customer) {
	const path = `${customer ? "customers" : "users"}/${part(id)}/disconnect`;
	act({
		title: `Disconnect ${id}`,
		text: "Closes all connections of this user on all nodes. The token stays valid; revoke it to end it.",
		button: "Disconnect",
		danger: true,
		fields: [RECONNECT],
		count: async ({ reconnect }) => counted(await api("POST", path, { reconnect, reason: "count", dryRun: true })),
		command: ({ reason, reconnect }) => tool("kick", { [customer ? "--customer" : "--user"]: id, "--reason": reason, "--reconnect": reconnect }),
		async run({ reason, reconnect }) {
			const { count } = await api("POST", path, { reconnect, reason });
			return `${people(count)} closed.`;
		},
	});
}
