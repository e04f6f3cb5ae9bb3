// @ts-check
// Connections: find them on all nodes, see their details, disconnect one or many.
import { query } from "../api.js";
import { connectionTable, disconnectAll } from "../clients.js";
import { h, put } from "../dom.js";
import { num } from "../format.js";
import { live } from "../live.js";
import { operator } from "../me.js";
import { among, button, choice, filters, heading, missing, NAMESPACES, people, remember, ROLES } from "../parts.js";
import { pager } from "../table.js";

const LIMIT = 50;
const SORTS = ["-connected", "connected", "-seen", "seen", "-outbox", "outbox", "-dropped", "dropped", "-user", "user"];
const NAMES = ["user", "ip", "room", "sid", "node", "namespace", "transport", "role"];

export function show(root, { query: given }) {
	let asked = Object.fromEntries(NAMES.map((name) => [name, given[name] ?? ""]));
	let sort = among(SORTS, given.sort);
	let cursor = "";
	let end = () => {};
	const lost = h("div");
	const head = h("div");
	const holder = h("div");
	let list;
	const pages = pager((next) => {
		cursor = next;
		watch();
	});
	put(root,
		heading("Connections", "Every client that is connected, on all nodes."),
		filters([
			{ name: "user", label: "User", value: asked.user, placeholder: "user id" },
			{ name: "ip", label: "Address", value: asked.ip, placeholder: "203.0.113.9" },
			{ name: "room", label: "Room", value: asked.room, placeholder: "ticket:42" },
			{ name: "sid", label: "Connection id", value: asked.sid },
			{ name: "node", label: "Node", value: asked.node, placeholder: "n1" },
			{ name: "namespace", label: "Namespace", value: asked.namespace, options: choice(NAMESPACES, "any") },
			{ name: "transport", label: "Transport", value: asked.transport, options: choice(["websocket", "polling", "demo"], "any") },
			{ name: "role", label: "Role", value: asked.role, options: choice(ROLES, "any") },
		], (now) => {
			asked = now;
			again();
		}),
		lost, h("section", head, holder), pages.element,
	);

	function again() {
		cursor = "";
		pages.reset();
		remember("connections", { ...asked, sort: sort === "-connected" ? "" : sort });
		watch();
	}

	function fresh() {
		list = connectionTable({
			sort,
			onsort(name) {
				sort = name;
				fresh();
				again();
			},
		});
		put(holder, list.element);
	}

	function title(total) {
		const where = Object.fromEntries(Object.entries(asked).filter(([, value]) => value));
		const some = Object.keys(where).length > 0;
		put(head, h("div.heading-row",
			h("h2", some ? `${people(total)} found` : people(total)),
			some && total > 0 && operator(() => button(`Disconnect all ${num(total)}`, () => disconnectAll(where), { danger: true })),
		));
	}

	function watch() {
		end();
		end = live({
			["connections" + query({ ...asked, sort, limit: LIMIT, cursor })]: (body) => {
				put(lost, missing(body.missing));
				title(body.total);
				list.set(body.items);
				pages.set(body.next);
			},
		});
	}

	fresh();
	watch();
	return () => end();
}
