// @ts-check
// Nodes: the numbers of each, and the drain before an upgrade with its progress.
import { api, part } from "../api.js";
import { tool } from "../commands.js";
import { act } from "../dialog.js";
import { h, put } from "../dom.js";
import { bytes, clock, duration, ms, num, rate } from "../format.js";
import { live } from "../live.js";
import { operator } from "../me.js";
import { connectionsLink, connectionsOf, leader, stateDot, takesClients } from "../node.js";
import { button, heading, missing, people, small } from "../parts.js";

const OVER_S = 60;

export function show(root) {
	const lost = h("div");
	const list = h("div.nodes", h("article.node.card", h("span.skeleton", "asking the nodes")));
	put(root, heading("Nodes", "Every process of the cluster. Drain one before you stop it: its clients move to the others."), lost, list);
	const cards = new Map();
	let nodes = [];
	const others = (name) => nodes.filter((node) => node.node !== name && takesClients(node)).length;
	return live({
		nodes(body) {
			nodes = body.nodes;
			put(lost, missing(body.missing));
			for (const id of cards.keys()) {
				if (!body.nodes.some((node) => node.incarnation === id)) cards.delete(id);
			}
			for (const node of body.nodes) {
				if (!cards.has(node.incarnation)) cards.set(node.incarnation, card(node, others));
				cards.get(node.incarnation).set(node);
			}
			const elements = body.nodes.map((node) => cards.get(node.incarnation).element);
			if (elements.length !== list.children.length || elements.some((one, n) => one !== list.children[n])) put(list, elements);
		},
	});
}

/** Make a node's card. `others(name)` returns how many other nodes accept clients. */
function card({ node: name }, others) {
	const state = h("span");
	const leads = h("span");
	const figures = h("dl.figures");
	const progress = h("div");
	const actions = h("div.row");
	const element = h("article.node.card", { "aria-label": `Node ${name}` }, h("header", h("h2", name), leads, state, actions), progress, figures);
	let drained = null;
	let known = null; // the node's last answer
	return {
		element,
		set(node) {
			known = node;
			put(leads, leader(node));
			put(state, stateDot(node));
			put(progress, node.drain ? drain(node.drain) : "");
			put(figures, rows(node).map(([title, value]) => h("div", h("dt", title), h("dd", value))));
			const now = Boolean(node.drain);
			if (now !== drained) {
				drained = now;
				put(actions, operator(() => (now ? button("Undrain", () => askUndrain(name)) : button("Drain", () => askDrain(known, () => others(name)), { danger: true }))));
			}
		},
	};
}

function rows(node) {
	const { kinds } = connectionsOf(node);
	const sockets = Object.entries(node.sockets).filter(([, count]) => count);
	return [
		["Connections", [connectionsLink(node), kinds && small(kinds)]],
		["Users", num(node.users)],
		["Rooms", num(node.rooms)],
		["Events in", `${rate(node.eventsInPerSecond)}/s`],
		["Events out", `${rate(node.eventsOutPerSecond)}/s`],
		["Delivery p50", ms(node.deliveryP50Ms)],
		["Delivery p99", ms(node.deliveryP99Ms)],
		["Loop lag", ms(node.loopLagMs)],
		["Memory", bytes(node.rssBytes)],
		["Open files", node.maxFiles ? `${num(node.openFiles)} of ${num(node.maxFiles)}` : num(node.openFiles)],
		["Outboxes", bytes(node.outboxBytes)],
		["Up", duration(node.uptimeSeconds)],
		["Version", node.version],
		["Sockets", sockets.length ? h("ul.sockets", sockets.map(([namespace, count]) => h("li", h("span.soft", namespace), ` ${num(count)}`))) : "0"],
	];
}

function drain({ overSeconds, sentAway, left, done, since }) {
	const all = sentAway + left;
	const text = done ? `Drained: ${people(sentAway)} closed. The node accepts no new clients.` : `${num(sentAway)} of ${people(all)} closed, over ${duration(overSeconds)}`;
	const bar = h("progress", { max: Math.max(1, all), "aria-label": "Drain" });
	bar.value = done ? Math.max(1, all) : sentAway;
	return h("div.drain", h("p", text), bar, small(`since ${clock(since * 1000)}`));
}

/** Open the dialog of a drain. `others()` returns how many other nodes accept clients. */
function askDrain(node, others) {
	const name = node.node;
	const path = `nodes/${part(name)}/drain`;
	act({
		title: `Drain ${name}`,
		text: "Its clients are disconnected and reconnect to other nodes. It accepts no new clients until it is undrained or restarted.",
		button: "Drain",
		danger: true,
		fields: [{ name: "overSeconds", label: "Duration in seconds", type: "number", value: OVER_S, min: 0, max: 3600, required: true, help: "Clients leave evenly over this time, so that the other nodes are not overloaded." }],
		async count({ overSeconds }) {
			// A node that reports its checks supports dryRun. For an older node, use the number on this page.
			const { count } = node.checks?.length ? await api("POST", path, { overSeconds: overSeconds || 0, reason: "count", dryRun: true }) : { count: connectionsOf(node).total };
			return `${people(count)} will be closed.` + (others() ? "" : " No other node accepts clients, so they cannot reconnect.");
		},
		command: ({ overSeconds, reason }) => tool("drain", name, { "--over": String(overSeconds), "--reason": reason }),
		async run({ overSeconds, reason }) {
			await api("POST", path, { overSeconds, reason });
			return `${name} disconnects its clients.`;
		},
	});
}

function askUndrain(name) {
	const path = `nodes/${part(name)}/undrain`;
	act({
		title: `Undrain ${name}`,
		text: "It accepts clients again.",
		button: "Undrain",
		command: ({ reason }) => tool("drain", name, { "--undo": true, "--reason": reason }),
		async run({ reason }) {
			await api("POST", path, { reason });
			return `${name} accepts clients again.`;
		},
	});
}
