// @ts-check
// Limits: rate limits, users who exceeded one, blocks and revocations.
import { api, part, query } from "../api.js";
import { curl, removal } from "../commands.js";
import { act } from "../dialog.js";
import { h, put } from "../dom.js";
import { ago, duration, num } from "../format.js";
import { live } from "../live.js";
import { operator } from "../me.js";
import { button, heading, missing, section, small, tag, userUrl } from "../parts.js";
import { blockTable, newBlock, newRevocation, revocationTable } from "../refusals.js";
import { pager, table } from "../table.js";

const LIMIT = 50;

export function show(root) {
	const lost = h("div");
	const limits = limitTable();
	const offenders = offenderTable();
	const blocks = blockTable("Nobody is blocked. A block refuses a user or an address on all nodes.");
	const revocations = revocationTable("Nothing is revoked. A revocation ends a session, or all tokens that a user has so far.");
	const cursors = { blocks: "", revocations: "" };
	const pages = Object.fromEntries(Object.keys(cursors).map((name) => [name, pager((next) => {
		cursors[name] = next;
		watch();
	})]));
	let end = () => {};
	const titled = (title, text, open, list, name) => h("section", h("div.heading-row", h("h2", title), operator(() => button(text, open))), list.element, pages[name].element);
	put(root,
		heading("Limits", "Rate limits per user and event, users who exceeded one, blocks and revocations."),
		lost,
		section("Users over a limit in the last 10 minutes", offenders.element),
		titled("Blocks", "New block", () => newBlock(), blocks, "blocks"),
		titled("Revocations", "New revocation", () => newRevocation(), revocations, "revocations"),
		section("Rate limits", limits.element),
	);

	function watch() {
		const paged = (name, list) => [name + query({ limit: LIMIT, cursor: cursors[name] }), (body) => {
			list.set(body.items);
			pages[name].set(body.next);
		}];
		end();
		end = live({
			ratelimits(body) {
				put(lost, missing(body.missing));
				limits.set(body.limits);
				offenders.set(body.offenders);
			},
			...Object.fromEntries([paged("blocks", blocks), paged("revocations", revocations)]),
		});
	}

	watch();
	return () => end();
}

function limitTable() {
	return table({
		label: "Rate limits",
		key: (one) => `${one.namespace} ${one.event}`,
		empty: "No limits are declared.",
		columns: [
			{ label: "Event", cell: (one) => h("code", one.event) },
			{ label: "Namespace", cell: (one) => tag(one.namespace) },
			{ label: "Calls", cell: (one) => `${num(one.max)} in ${duration(one.windowSeconds)}`, num: true },
			{ label: "Source", cell: (one) => (one.overridden ? [tag("changed", "warn"), small(one.overriddenUntil ? ["ends ", ago(one.overriddenUntil)] : "until it is reset")] : h("span.soft", "as configured")) },
			{ label: "Refused", cell: (one) => num(one.limited), num: true, title: "Calls refused because of this limit" },
			operator(() => ({ label: "", cell: (one) => h("div.row", button("Change", () => change(one), { label: `Change the limit of ${one.event}` }), one.overridden && button("Reset", () => reset(one), { label: `Reset the limit of ${one.event}` })) })),
		].filter(Boolean),
	});
}

function offenderTable() {
	return table({
		label: "Users over a limit",
		key: (one) => `${one.node} ${one.namespace} ${one.event} ${one.userId} ${one.customerId ?? ""}`,
		empty: "Nobody. Users whose calls were refused as RATE_LIMITED appear here, with the event.",
		columns: [
			{ label: "User", cell: (one) => h("a", { href: userUrl(one.userId ?? one.customerId, Boolean(one.customerId)) }, one.userId ?? one.customerId) },
			{ label: "Event", cell: (one) => h("code", one.event) },
			{ label: "Namespace", cell: (one) => tag(one.namespace) },
			{ label: "Refused", cell: (one) => num(one.count), num: true },
			{ label: "Last", cell: (one) => ago(one.lastAt) },
			{ label: "Node", cell: (one) => one.node },
		],
	});
}

function change(one) {
	const path = `ratelimits/${part(one.event)}`;
	const body = ({ max, window, forMinutes, reason }) => ({ max, window, reason, ...(forMinutes === "" ? {} : { forSeconds: forMinutes * 60 }) });
	act({
		title: `Change the limit of ${one.event}`,
		text: "Applies at once on all nodes, per user, in every namespace that has the event.",
		button: "Change",
		fields: [
			{ name: "max", label: "Calls", type: "number", value: one.max, min: 1, max: 1_000_000, required: true },
			{ name: "window", label: "Per how many seconds", type: "number", value: one.windowSeconds, min: 1, max: 86_400, required: true },
			{ name: "forMinutes", label: "For how many minutes", type: "number", min: 1, max: 100_000, help: "Empty: until it is reset." },
		],
		command: (given) => curl("PUT", path, body(given)),
		async run(given) {
			await api("PUT", path, body(given));
			return `The limit of ${one.event} has changed.`;
		},
	});
}

function reset(one) {
	const path = `ratelimits/${part(one.event)}`;
	act({
		title: `Reset the limit of ${one.event}`,
		text: "Returns to the configured limit.",
		button: "Reset",
		command: ({ reason }) => removal(path, { reason }),
		async run({ reason }) {
			await api("DELETE", path + query({ reason }));
			return `The limit of ${one.event} is the configured one again.`;
		},
	});
}
