// @ts-check
// Audit: who did what through the admin port, from where, why and with what outcome.
import { query } from "../api.js";
import { h, put } from "../dom.js";
import { at, num } from "../format.js";
import { live } from "../live.js";
import { dot, filters, heading, remember, small, tag } from "../parts.js";
import { pager, table } from "../table.js";

const LIMIT = 50;

export function show(root, { query: given }) {
	let asked = { who: given.who ?? "", action: given.action ?? "" };
	let cursor = "";
	let end = () => {};
	const list = table({
		label: "Audit log",
		key: (entry) => entry.id,
		empty: "No entries match. Every change made through the API, the shell or this console is listed here.",
		detail: (entry) => h("dl.facts",
			h("dt", "Fields"), h("dd", h("code", entry.what || "none")),
			h("dt", "From"), h("dd", entry.address),
			h("dt", "Done by node"), h("dd", entry.node),
			h("dt", "Entry"), h("dd", h("code", entry.id)),
		),
		columns: [
			{ label: "When", cell: (entry) => at(entry.at), fix: true },
			{ label: "Who", cell: (entry) => [entry.who, small(entry.scope)] },
			{ label: "Action", cell: (entry) => tag(entry.action) },
			{ label: "Target", cell: (entry) => entry.target || h("code.clip", entry.what || "–") },
			{ label: "Reason", cell: (entry) => entry.reason },
			{ label: "From", cell: (entry) => entry.address, wide: true },
			{ label: "Outcome", cell: (entry) => dot(entry.outcome === "ok" ? "good" : "bad", entry.outcome) },
		],
	});
	const kept = h("p.note");
	const pages = pager((next) => {
		cursor = next;
		watch();
	});
	put(root,
		heading("Audit", "Who changed what, from where, why and with what outcome."),
		kept,
		filters([
			{ name: "who", label: "Who", value: asked.who, placeholder: "key or user id" },
			{ name: "action", label: "Action", value: asked.action, placeholder: "node, or node.drain" },
		], (now) => {
			asked = now;
			cursor = "";
			pages.reset();
			remember("audit", asked);
			watch();
		}),
		list.element,
		pages.element,
	);

	function watch() {
		end();
		end = live({
			["audit" + query({ ...asked, limit: LIMIT, cursor })]: (body) => {
				list.set(body.items);
				put(kept, small(`Entries are kept for at least ${body.keptDays} days. ${num(body.dropped)} older ${body.dropped === 1 ? "entry was" : "entries were"} deleted${body.droppedEarly ? `, ${num(body.droppedEarly)} of them early because there were too many` : ""}.`));
				pages.set(body.next);
			},
		});
	}

	watch();
	return () => end();
}
