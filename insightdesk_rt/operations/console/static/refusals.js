// @ts-check
// Blocks of users and addresses, and revoked sessions and tokens: their tables and actions.
import { api, part, query } from "./api.js";
import { curl, removal } from "./commands.js";
import { act } from "./dialog.js";
import { h } from "./dom.js";
import { ago, at } from "./format.js";
import { operator } from "./me.js";
import { button, counted, people, small, userUrl } from "./parts.js";
import { table } from "./table.js";

// The id that a rule names. With separate ids, a customer is named by `customerId`.
const idOf = (one) => one.userId ?? one.customerId;
const user = (one) => h("a", { href: userUrl(idOf(one), Boolean(one.customerId)) }, idOf(one));
const by = (one) => [one.by, small(ago(one.at))];

export function blockTable(empty) {
	return table({
		label: "Blocks",
		key: (block) => block.id,
		empty,
		columns: [
			{ label: "Who", cell: (block) => (idOf(block) ? [user(block), small(block.customerId ? "customer" : "user")] : [block.ip ?? block.cidr, small(block.ip ? "address" : "network")]) },
			{ label: "Reason", cell: (block) => block.reason },
			{ label: "By", cell: by },
			{ label: "Ends", cell: (block) => (block.until ? ago(block.until) : "never") },
			operator(() => ({ label: "", cell: (block) => button("Unblock", () => unblock(block), { label: `Unblock ${idOf(block) ?? block.ip ?? block.cidr}` }) })),
		].filter(Boolean),
	});
}

export function revocationTable(empty) {
	return table({
		label: "Revocations",
		key: (one) => one.id,
		empty,
		columns: [
			{ label: "What", cell: (one) => (idOf(one) ? [user(one), small("tokens issued before ", at(one.issuedBefore))] : [h("code", one.sessionId), small("session")]) },
			{ label: "Reason", cell: (one) => one.reason },
			{ label: "By", cell: by },
			{ label: "Kept until", cell: (one) => (one.until ? at(one.until) : "–"), wide: true },
			operator(() => ({ label: "", cell: (one) => button("Remove", () => takeBack(one), { label: `Remove the revocation of ${idOf(one) ?? one.sessionId}` }) })),
		].filter(Boolean),
	});
}

/** Open the dialog of a new block. `given` names the user; without it the dialog asks what to block. */
export function newBlock(given = {}) {
	const what = ({ kind, whom }) => (idOf(given) ? given : { [kind]: whom });
	const body = (asked, dryRun) => ({
		...what(asked), reason: asked.reason || "count",
		...(asked.forHours === "" ? {} : { forSeconds: Math.round(asked.forHours * 3600) }),
		...(dryRun ? { dryRun } : {}),
	});
	const whom = idOf(given) ? [] : [
		{ name: "kind", label: "What", value: "ip", options: [["ip", "an address"], ["cidr", "a network"], ["userId", "a user"]] },
		{ name: "whom", label: "Which", required: true, maxlength: 128, placeholder: "203.0.113.9, 203.0.113.0/24 or a user id" },
	];
	act({
		title: idOf(given) ? `Block ${idOf(given)}` : "New block",
		text: "Closes all matching connections on all nodes now, and refuses new ones while the block lasts.",
		button: "Block",
		danger: true,
		fields: [...whom, { name: "forHours", label: "Duration in hours", type: "number", min: 0.1, max: 87_600, step: "any", help: "Empty: until it is removed." }],
		count: async (asked) => (idOf(given) || asked.whom ? counted(await api("POST", "blocks", body(asked, true))) : "Enter an address, a network or a user id."),
		command: (asked) => curl("POST", "blocks", { ...body(asked), reason: asked.reason }),
		async run(asked) {
			return `Blocked. ${done(await api("POST", "blocks", body(asked)))}`;
		},
	});
}

/** Open the dialog of a new revocation. `given` names the user or the session; without it the dialog asks for one. */
export function newRevocation(given = {}) {
	const named = idOf(given) ?? given.sessionId;
	const what = ({ kind, whom }) => (named ? given : { [kind]: whom });
	const body = (asked, dryRun) => ({ ...what(asked), reason: asked.reason || "count", ...(dryRun ? { dryRun } : {}) });
	act({
		title: idOf(given) ? `Revoke the tokens of ${idOf(given)}` : given.sessionId ? `Revoke the session ${given.sessionId}` : "New revocation",
		text: given.sessionId
			? "Tokens of this session become invalid: its connections are closed on all nodes, and new ones are refused. Other sessions of the user continue."
			: named
				? "All tokens issued until now become invalid: connections are closed on all nodes, and new ones with such a token are refused. Tokens issued later are valid."
				: "Makes the tokens of a session, or all tokens of a user issued until now, invalid: connections are closed on all nodes, and new ones are refused.",
		button: "Revoke",
		danger: true,
		fields: named ? [] : [
			{ name: "kind", label: "What", value: "sessionId", options: [["sessionId", "a session"], ["userId", "all tokens of a user"]] },
			{ name: "whom", label: "Which", required: true, maxlength: 200, placeholder: "the session's or user's id" },
		],
		count: async (asked) => (named || asked.whom ? counted(await api("POST", "revocations", body(asked, true))) : "Enter the id of a session or a user."),
		command: (asked) => curl("POST", "revocations", { ...body(asked), reason: asked.reason }),
		async run(asked) {
			return `Revoked. ${done(await api("POST", "revocations", body(asked)))}`;
		},
	});
}

function unblock(block) {
	const path = `blocks/${part(block.id)}`;
	act({
		title: `Unblock ${idOf(block) ?? block.ip ?? block.cidr}`,
		text: `Blocked by ${block.by}: ${block.reason}`,
		button: "Unblock",
		command: ({ reason }) => removal(path, { reason }),
		async run({ reason }) {
			await api("DELETE", path + query({ reason }));
			return "The block was removed.";
		},
	});
}

function takeBack(one) {
	const path = `revocations/${part(one.id)}`;
	act({
		title: `Remove the revocation of ${idOf(one) ?? one.sessionId}`,
		text: `Revoked by ${one.by}: ${one.reason}. Tokens that have not expired become valid again.`,
		button: "Remove",
		command: ({ reason }) => removal(path, { reason }),
		async run({ reason }) {
			await api("DELETE", path + query({ reason }));
			return "The revocation was removed.";
		},
	});
}

const done = ({ count }) => `${people(count)} closed.`;
