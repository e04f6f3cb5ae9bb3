// @ts-check
// Overview: the cluster's health, and the last 15 minutes.
import { chart } from "../chart.js";
import { h, put } from "../dom.js";
import { ago, bytes, duration, ms, num, rate } from "../format.js";
import { live } from "../live.js";
import { operator } from "../me.js";
import { addNotice, noticeList } from "../notices.js";
import { connectionsLink, connectionsOf, leader, nodeState, stateDot } from "../node.js";
import { button, dot, heading, missing, section, small, tile } from "../parts.js";
import { table } from "../table.js";

export function show(root) {
	const tiles = { connections: tile("Connections"), users: tile("Users"), events: tile("Events per second"), delivery: tile("Delivery p99"), queue: tile("Chats waiting"), nodes: tile("Nodes") };
	const charts = [
		chart({ title: "Connections", show: num, series: [{ name: "open", of: (sample) => sample.connections }] }),
		chart({ title: "Events per second", show: rate, series: [{ name: "out", of: (sample) => sample.eventsOut }, { name: "in", of: (sample) => sample.eventsIn }] }),
		chart({ title: "Delivery latency", show: ms, series: [{ name: "p99", of: (sample) => sample.deliveryP99Ms }, { name: "p50", of: (sample) => sample.deliveryP50Ms }] }),
	];
	const health = h("ul.checks", h("li", h("span.skeleton", "asking the nodes")));
	const notices = noticeList();
	const nodes = nodeTable();
	const acts = h("ol.acts-list", h("li", h("span.skeleton", "reading the audit log")));
	const gone = h("div");
	put(root,
		heading("Overview", "The cluster as it is now, and its last 15 minutes."),
		gone,
		h("div.tiles", Object.values(tiles).map((one) => one.element)),
		h("div.charts", charts.map((one) => one.element)),
		h("div.columns",
			section("Health", h("div.card", health)),
			h("section", h("div.heading-row", h("h2", "Notices"), operator(() => button("New notice", addNotice))), h("div.card", notices.element)),
		),
		section("Nodes", nodes.element),
		section("Last actions", h("div.card", acts)),
	);

	return live({
		nodes(body) {
			put(gone, missing(body.missing));
			put(health, checks(body));
			nodes.set(body.nodes);
			totals(tiles, body);
		},
		"nodes/history": (body) => {
			const samples = together(body.nodes);
			for (const one of charts) one.set(samples);
		},
		notices: (body) => notices.set(body.items),
		"metrics/queue": (body) => tiles.queue.set(num(body.waiting), body.waiting ? `longest ${duration(body.longestWaitMs / 1000)}` : `${num(body.active)} active`),
		"audit?limit=6": (body) => put(acts, body.items.length ? body.items.map(deed) : h("li.empty", "No actions yet. Changes made by admins appear here, with their reasons.")),
	}, (path, error) => {
		if (path === "nodes") put(health, h("li", dot("bad", error.code === "UNAVAILABLE" ? "Valkey" : "Nodes"), small(error.code === "UNAVAILABLE" ? "does not answer" : error.text)));
	});
}

function totals(tiles, { nodes, users, missing: lost }) {
	const sum = (of) => nodes.reduce((total, node) => total + of(node), 0);
	const { total, kinds } = connectionsOf(...nodes);
	const worst = Math.max(...nodes.map((node) => node.deliveryP99Ms ?? -1));
	const usual = Math.max(...nodes.map((node) => node.deliveryP50Ms ?? -1));
	tiles.connections.set(num(total), kinds || "all by websocket");
	tiles.users.set(num(users), nodes.length > 1 ? `on ${nodes.length} nodes` : "");
	tiles.events.set(rate(sum((node) => node.eventsOutPerSecond)), `${rate(sum((node) => node.eventsInPerSecond))} in`);
	tiles.delivery.set(ms(worst < 0 ? null : worst), usual < 0 ? "nothing delivered" : `p50 ${ms(usual)}`);
	tiles.nodes.set(num(nodes.length), lost.length ? `${lost.length} missing` : `v${nodes[0]?.version ?? ""}`);
}

function checks({ nodes, missing: lost }) {
	// Valkey also answers reads when it is full or a replica. The nodes' own check tries a write.
	const trouble = nodes.flatMap((node) => node.checks ?? []).find((check) => check.name === "valkey" && !check.ok);
	return [
		h("li", h("span.dot.state", { data: { is: trouble ? "bad" : "good" } }, "Valkey"), small(trouble?.why ?? "answers")),
		...nodes.map((node) => {
			const { is, word, why } = nodeState(node);
			return h("li", h("span.dot.state", { data: { is } }, node.node), small([word, ...(why.length ? why : [`loop lag ${ms(node.loopLagMs)}`])].join(" · ")));
		}),
		...lost.map((name) => h("li", dot("bad", name), small("did not answer in time"))),
	];
}

function nodeTable() {
	return table({
		label: "Nodes",
		key: (node) => node.incarnation,
		empty: "No node has answered yet.",
		columns: [
			{ label: "Node", cell: (node) => h("a", { href: "#/nodes" }, node.node) },
			{ label: "Up", cell: (node) => duration(node.uptimeSeconds), num: true },
			{ label: "Connections", cell: connectionsLink, num: true },
			{ label: "Events out", cell: (node) => `${rate(node.eventsOutPerSecond)}/s`, num: true },
			{ label: "Delivery p99", cell: (node) => ms(node.deliveryP99Ms), num: true },
			{ label: "Loop lag", cell: (node) => ms(node.loopLagMs), num: true, wide: true },
			{ label: "Memory", cell: (node) => bytes(node.rssBytes), num: true, wide: true },
			{ label: "State", cell: (node) => h("span.row", stateDot(node), leader(node)) },
		],
	});
}

function deed(entry) {
	return h("li", dot(entry.outcome === "ok" ? "good" : "bad", entry.action), h("span", entry.target && h("b", entry.target), entry.target ? " " : "", h("q", entry.reason)), small(entry.who, " · ", ago(entry.at)));
}

const SUMMED = ["connections", "eventsIn", "eventsOut"];
const SLOWEST = ["deliveryP50Ms", "deliveryP99Ms"];

/**
 * Combine the nodes' samples: sums of the counts, and the latency of the slowest node. Nodes take samples at different
 * moments, a busy one late, so each is read at common moments from its nearest sample.
 */
function together(nodes) {
	const sampled = nodes.filter((node) => node.samples.length);
	if (!sampled.length) return [];
	const every = sampled[0].everySeconds;
	const last = Math.min(...sampled.map((node) => node.samples.at(-1).at));
	const first = Math.min(...sampled.map((node) => node.samples[0].at));
	const moments = [];
	for (let at = last; at >= first; at -= every) moments.unshift({ at, connections: 0, eventsIn: 0, eventsOut: 0, deliveryP50Ms: null, deliveryP99Ms: null });
	for (const { samples } of sampled) {
		let near = 0;
		for (const sum of moments) {
			const off = (index) => Math.abs(samples[index].at - sum.at);
			while (near + 1 < samples.length && off(near + 1) <= off(near)) near += 1;
			const sample = samples[near];
			if (off(near) > every) continue; // the node has no sample of that moment
			for (const name of SUMMED) sum[name] += sample[name];
			for (const name of SLOWEST) if (sample[name] !== null) sum[name] = Math.max(sum[name] ?? 0, sample[name]);
		}
	}
	return moments;
}
