// @ts-check
// Chats and their queue: waiting, active and closed chats; assign, requeue or close them.
import { api, part, query } from "../api.js";
import { curl } from "../commands.js";
import { act } from "../dialog.js";
import { h, put } from "../dom.js";
import { ago, at, duration, num } from "../format.js";
import { live } from "../live.js";
import { me, operator } from "../me.js";
import { among, button, heading, person, remember, small, tag, tile } from "../parts.js";
import { pager, table } from "../table.js";

const LIMIT = 50;
const STATES = ["waiting", "active", "closed"];
const EMPTY = {
	waiting: "Nobody is waiting. Customers who ask for a chat appear here until an agent accepts.",
	active: "No chat is active.",
	closed: "No chat has ended yet.",
};

export function show(root, { query: given }) {
	let state = among(STATES, given.state);
	let cursor = "";
	let agents = [];
	let end = () => {};
	let list;
	const tiles = { waiting: tile("Waiting"), longest: tile("Longest wait"), average: tile("Average wait"), active: tile("Active"), agents: tile("Agents online") };
	const holder = h("div");
	const tabs = STATES.map((name) => h("button", { type: "button", onclick: () => turn(name) }, name[0].toUpperCase() + name.slice(1)));
	const pages = pager((next) => {
		cursor = next;
		watch();
	});
	put(root,
		heading("Chats & queue", "Conversations between customers and agents, without their messages."),
		h("div.tiles", Object.values(tiles).map((one) => one.element)),
		h("div.tabs", { role: "group", "aria-label": "State" }, tabs),
		holder, pages.element,
	);

	function turn(name) {
		state = name;
		cursor = "";
		pages.reset();
		remember("chats", { state });
		fresh();
		watch();
	}

	function fresh() {
		tabs.forEach((tab, n) => tab.setAttribute("aria-pressed", STATES[n] === state));
		list = conversations(state, () => agents);
		put(holder, list.element);
	}

	function watch() {
		end();
		end = live({
			["chats" + query({ state, limit: LIMIT, cursor })]: (body) => {
				list.set(body.items);
				pages.set(body.next);
			},
			"metrics/queue": (queue) => {
				tiles.waiting.set(num(queue.waiting));
				tiles.longest.set(duration(queue.longestWaitMs / 1000));
				tiles.average.set(duration(queue.averageWaitMs / 1000));
				tiles.active.set(num(queue.active));
			},
			"metrics/agents": (now) => tiles.agents.set(num(now.online), `${num(now.busy)} busy, ${num(now.away)} away`),
			"presence?status=online&limit=200": (body) => (agents = body.items),
		});
	}

	fresh();
	watch();
	return () => end();
}

function conversations(state, agents) {
	const began = { waiting: "waitingSince", active: "acceptedAt", closed: "closedAt" }[state];
	return table({
		label: `Chats: ${state}`,
		key: (one) => one.conversationId,
		empty: EMPTY[state],
		columns: [
			state === "waiting" && { label: "Place", cell: (one) => num(one.position), num: true },
			{ label: "Customer", cell: (one) => person({ ...one.customer, role: me.separateIds ? "customer" : "" }), name: true },
			{ label: "Subject", cell: (one) => [one.subject || h("span.soft", "none"), small(h("code", one.conversationId))] },
			{ label: "Agent", cell: (one) => (one.agent ? person(one.agent) : h("span.soft", "none")) },
			{ label: "Team", cell: (one) => (one.teamId ? tag(one.teamId) : "–"), wide: true },
			{ label: { waiting: "Waiting since", active: "Accepted", closed: "Closed" }[state], cell: (one) => (state === "closed" ? at(one[began]) : ago(one[began] ?? one.createdAt)) },
			{ label: "Messages", cell: (one) => num(one.lastMessageId), num: true },
			state === "closed" && { label: "Why", cell: (one) => [one.closedReason || "–", one.closedBy && small(`by ${one.closedBy.name || one.closedBy.id}`)] },
			state === "closed" && { label: "Rating", cell: (one) => (one.score ? `${one.score} of 5` : "–"), num: true },
			state !== "closed" && operator(() => ({ label: "", cell: (one) => h("div.row", button("Assign", () => assign(one, agents()), { label: `Assign ${title(one)}` }), state === "active" && button("Requeue", () => requeue(one), { label: `Requeue ${title(one)}` }), button("Close", () => close(one), { danger: true, label: `Close ${title(one)}` })) })),
		].filter(Boolean),
	});
}

const title = (one) => `the chat of ${one.customer.name || one.customer.id}`;

/** Open the dialog of an action on a chat. `more` returns the values besides the reason. */
function change(one, verb, more, about) {
	const path = `chats/${part(one.conversationId)}/${verb}`;
	act({
		...about,
		command: (given) => curl("POST", path, { ...more(given), reason: given.reason }),
		async run(given) {
			await api("POST", path, { ...more(given), reason: given.reason });
			return about.done;
		},
	});
}

function assign(one, agents) {
	const known = agents.filter((agent) => agent.userId !== one.agent?.id);
	const which = { name: "agentId", label: "To agent", required: true, maxlength: 128 };
	change(one, "assign", ({ agentId }) => ({ agentId }), {
		title: `Assign ${title(one)}`,
		text: "The agent receives it at once, and must be connected to the chat now.",
		button: "Assign",
		fields: [known.length ? { ...which, value: known[0].userId, options: known.map((agent) => [agent.userId, `${agent.name || agent.userId} (${agent.userId})`]) } : { ...which, placeholder: "user id" }],
		done: "The chat was assigned.",
	});
}

function requeue(one) {
	change(one, "requeue", ({ teamId }) => (teamId ? { teamId } : {}), {
		title: `Requeue ${title(one)}`,
		text: "It waits for another agent, in its old place in the queue.",
		button: "Requeue",
		fields: [{ name: "teamId", label: "Team", value: one.teamId ?? "", maxlength: 128, help: "The team whose queue it joins." }],
		done: "The chat was requeued.",
	});
}

function close(one) {
	change(one, "close", () => ({}), {
		title: `Close ${title(one)}`,
		text: "The customer and the agent see that it has ended.",
		button: "Close",
		danger: true,
		done: "The chat has ended.",
	});
}
