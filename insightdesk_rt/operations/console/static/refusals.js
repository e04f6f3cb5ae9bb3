// @ts-check
// Who is refused: blocks of users and addresses, and revoked sessions and tokens. Tables of them, and the actions.
import { api, part, query } from "./api.js";
import { curl, removal } from "./commands.js";
import { act } from "./dialog.js";
import { h } from "./dom.js";
import { ago, at } from "./format.js";
import { operator } from "./me.js";
import { button, counted, people, small, userUrl } from "./parts.js";
import { table } from "./table.js";

// Whom a rule names: where customers and staff are numbered apart, a customer by `customerId`.
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
			operator(() => ({ label: "", cell: (one) => button("Take back", () => takeBack(one), { label: `Take back the revocation of ${idOf(one) ?? one.sessionId}` }) })),
		].filter(Boolean),
	});
}

/** Ask for a block; `given` names whom, or the dialog asks. */
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
		text: "Connections are closed now on all nodes, and new ones are refused while it lasts.",
		button: "Block",
		danger: true,
		fields: [...whom, { name: "forHours", label: "Hours it lasts", type: "number", min: 0.1, max: 87_600, step: "any", help: "Empty: until somebody ends it." }],
		count: async (asked) => (idOf(given) || asked.whom ? counted(await api("POST", "blocks", body(asked, true))) : "Say whom."),
		command: (asked) => curl("POST", "blocks", { ...body(asked), reason: asked.reason }),
		async run(asked) {
			return `Blocked. ${done(await api("POST", "blocks", body(asked)))}`;
		},
	});
}

/** Ask for a revocation; `given` names the user or the session, or the dialog asks for one. */
export function newRevocation(given = {}) {
	const named = idOf(given) ?? given.sessionId;
	const what = ({ kind, whom }) => (named ? given : { [kind]: whom });
	const body = (asked, dryRun) => ({ ...what(asked), reason: asked.reason || "count", ...(dryRun ? { dryRun } : {}) });
	act({
		title: idOf(given) ? `Revoke the tokens of ${idOf(given)}` : given.sessionId ? `Revoke the session ${given.sessionId}` : "New revocation",
		text: given.sessionId
			? "No token of this session counts any more: connections are closed on all nodes, new ones are refused. Other sessions of the user go on."
			: "Every token issued until now counts no more: connections are closed on all nodes, new ones are refused. Tokens issued later are good.",
		button: "Revoke",
		danger: true,
		fields: named ? [] : [
			{ name: "kind", label: "What", value: "sessionId", options: [["sessionId", "a session"], ["userId", "all tokens of a user"]] },
			{ name: "whom", label: "Which", required: true, maxlength: 200, placeholder: "the session's or user's id" },
		],
		count: async (asked) => (named || asked.whom ? counted(await api("POST", "revocations", body(asked, true))) : "Say whom."),
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
			return "Unblocked.";
		},
	});
}

function takeBack(one) {
	const path = `revocations/${part(one.id)}`;
	act({
		title: `Take back the revocation of ${idOf(one) ?? one.sessionId}`,
		text: `Revoked by ${one.by}: ${one.reason}. Tokens that have not expired are good again.`,
		button: "Take back",
		command: ({ reason }) => removal(path, { reason }),
		async run({ reason }) {
			await api("DELETE", path + query({ reason }));
			return "Taken back.";
		},
	});
}

const done = ({ count }) => `${people(count)} closed.`;
