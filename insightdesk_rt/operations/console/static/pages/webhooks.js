// @ts-check
// Webhooks: where the back end's feed is posted to, how far each has come, and the actions on it.
import { api, part, query } from "../api.js";
import { curl, tool } from "../commands.js";
import { act } from "../dialog.js";
import { h, put } from "../dom.js";
import { ago, at, num } from "../format.js";
import { live } from "../live.js";
import { me, operator } from "../me.js";
import { button, dot, heading, small, tag } from "../parts.js";
import { table } from "../table.js";

const made_here = h("div"); // a secret that was just made
const OFFSET = "[0-9]{1,20}-[0-9]{1,20}";

export function show(root) {
	const list = table({
		label: "Webhooks",
		key: (one) => one.id,
		empty: "There are no webhooks. A webhook posts what happens, such as closed chats and changed tickets, to your back end.",
		detail,
		columns: [
			{ label: "Receiver", cell: (one) => [one.url, small(one.reason)], name: true, keep: true },
			{ label: "State", cell: state, keep: true },
			{ label: "Types", cell: (one) => h("div.tags", one.types.map((type) => tag(type))), wide: true },
			{ label: "Accepted", cell: (one) => num(one.delivered), num: true },
			{ label: "Failed", cell: (one) => num(one.failed), num: true, title: "Attempts that were not accepted" },
			{ label: "Last accepted", cell: (one) => ago(one.deliveredAt) },
		],
	});
	put(root,
		heading("Webhooks", "What happens is posted to these addresses, in order, each entry until it is accepted.", me.may("admin") && button("New webhook", create)),
		made_here,
		list.element,
	);
	const end = live({ webhooks: (body) => list.set(body.items) });
	return () => {
		put(made_here);
		end();
	};
}

function state(one) {
	if (one.state === "parked") return [dot("bad", "parked"), small(one.lastError)];
	if (one.state === "paused") return dot("off", "paused");
	if (one.failures) return [dot("warn", "failing"), small(one.lastError)];
	return dot("good", "active");
}

function detail(one) {
	const actions = operator(() => h("div.row",
		one.state === "active" ? button("Pause", () => simple(one, "pause", "Pause", "Nothing is posted until it is resumed. Nothing is lost for as long as the feed keeps it.")) : null,
		one.state !== "active" ? button("Resume", () => simple(one, "resume", "Resume", "It goes on where it stopped.")) : null,
		one.state === "active" && one.failures ? button("Try now", () => simple(one, "resume", "Try now", "The entry that failed is posted at once.")) : null,
		button("Test", () => test(one)),
		button("Replay", () => replay(one)),
		me.may("admin") ? button("New secret", () => renew(one)) : null,
		button("Delete", () => remove(one), { danger: true }),
	));
	const facts = [
		["URL", one.url],
		["Id", h("code", one.id)],
		["Types", one.types.join(", ")],
		["Cursor", h("code", one.cursor)],
		["Waits for", one.pendingSince && ["an entry of ", at(one.pendingSince)]],
		["Failed attempts", one.failures && [`${num(one.failures)}, since `, at(one.failingSince)]],
		["Next attempt", one.nextTry && ago(one.nextTry)],
		["Last error", one.lastError],
		["Gaps", one.incomplete && `${num(one.incomplete)} times entries had left the feed before they could be delivered`],
		["Made", [at(one.createdAt), ` by ${one.by}`]],
	];
	return h("div", h("dl.facts", facts.filter(([, value]) => value).map(([name, value]) => [h("dt", name), h("dd", value)])), actions);
}

function create() {
	const body = ({ url, types, reason }) => ({ url, types: types.split(/[\s,]+/).filter(Boolean), reason });
	act({
		title: "New webhook",
		text: "Each entry carries what the helpdesk knows: messages of chats, internal notes, names.",
		button: "Make webhook",
		fields: [
			{ name: "url", label: "URL", type: "url", required: true, maxlength: 2000, help: "Where your back end receives the messages." },
			{ name: "types", label: "Types", placeholder: "chat.*, ticket.created", help: "Empty: all." },
		],
		command: ({ url, types, reason }) => tool("webhooks", "create", url, { "--types": types.replaceAll(/[\s,]+/g, ","), "--reason": reason }),
		async run(given) {
			secret(await api("POST", "webhooks", body(given)));
			return "The webhook is made.";
		},
	});
}

/** Ask for a reason, and do one action of a webhook. */
function simple(one, action, title, text) {
	act({
		title, text, button: title,
		command: ({ reason }) => tool("webhooks", action, one.id, { "--reason": reason }),
		async run({ reason }) {
			const done = await api("POST", `webhooks/${part(one.id)}/${action}`, { reason });
			return `The webhook is ${done.state}.`;
		},
	});
}

function test(one) {
	act({
		title: "Test this webhook",
		text: `Posts one message of the type webhook.ping to ${one.url} now.`,
		button: "Post it",
		command: ({ reason }) => tool("webhooks", "test", one.id, { "--reason": reason }),
		async run({ reason }) {
			const done = await api("POST", `webhooks/${part(one.id)}/test`, { reason });
			return done.accepted ? `Accepted in ${num(done.milliseconds)} ms.` : `Not accepted: ${done.error}`;
		},
	});
}

function replay(one) {
	act({
		title: "Replay this webhook",
		text: "Posts again what came after an offset of the feed, with the same ids, and then goes on.",
		button: "Replay",
		fields: [{ name: "after", label: "After the offset", value: "0-0", required: true, pattern: OFFSET, help: "0-0: from the oldest entry." }],
		command: ({ after, reason }) => tool("webhooks", "replay", one.id, { "--after": after, "--reason": reason }),
		async run(given) {
			await api("POST", `webhooks/${part(one.id)}/replay`, given);
			return "It is being replayed.";
		},
	});
}

function renew(one) {
	const path = `webhooks/${part(one.id)}/secret`;
	act({
		title: "New secret",
		text: "Messages are signed with the new secret, and for a day with the old one too.",
		button: "Replace secret",
		command: ({ reason }) => curl("POST", path, { reason }),
		async run({ reason }) {
			secret(await api("POST", path, { reason }));
			return "The secret is replaced.";
		},
	});
}

function remove(one) {
	act({
		title: "Delete this webhook",
		text: one.url,
		button: "Delete",
		danger: true,
		command: ({ reason }) => tool("webhooks", "delete", one.id, { "--reason": reason }),
		async run({ reason }) {
			await api("DELETE", `webhooks/${part(one.id)}${query({ reason })}`);
			return "The webhook is deleted.";
		},
	});
}

/** Show a secret on the page, until it is hidden: no later answer has it. */
function secret(made) {
	put(made_here, h("section.card",
		h("h2", "The secret"),
		h("p.soft", "The receiver verifies messages with it. It is shown once."),
		h("div.command", h("pre", { tabindex: 0, role: "region", "aria-label": "Secret" }, h("code", made.secret))),
		h("div.row.end", button("Hide", () => put(made_here))),
	));
}
